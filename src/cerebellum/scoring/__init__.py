"""Sums over a chunk's logits, the reference's rows, and what a trial's sums amount to."""
