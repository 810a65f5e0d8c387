"""The small real model and its texts that come with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "bundled"
MODEL = FOLDER / "world-gemma4-F16.gguf"
SEARCH_TEXT = FOLDER / "search.txt"
REPORT_TEXT = FOLDER / "report.txt"
QUESTIONS = FOLDER / "questions"
#: What an importance matrix is made on where no other text is given.
CALIBRATION_TEXT = FOLDER / "calibration" / "general.txt"
#: The stock file whose bytes the demo asks for where no size is named.
DEMO_LIKE = "Q3_K_M"
