"""Compiled loops over logits; `cerebellum.scoring.metrics` is their door."""
