"""The small written world that the bundled model is trained on, the training, and the export. Development code, not in the wheel."""
