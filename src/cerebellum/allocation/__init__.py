"""Which type each tensor gets within a number of bytes: candidates, a model of their damage, an exact solver. Numbers in, numbers out."""
