"""Generated GGUF files with random weights, for what only their size matters to: time, memory, bytes.

python -m benchmarks.models small|medium|e2b FOLDER
"""

from benchmarks.models.shapes import E2B, MEDIUM, Gemma4, Llama, Shape, n_weights, small
from benchmarks.models.write import NoRoomError, write_model

__all__ = ["E2B", "MEDIUM", "Gemma4", "Llama", "NoRoomError", "Shape", "n_weights", "small", "write_model"]
