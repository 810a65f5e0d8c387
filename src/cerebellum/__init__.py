"""Cerebellum: find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory."""

from __future__ import annotations

__version__ = "0.1.0"
