"""Intervals, group-sequential looks, racing, paired items, verdicts, classes, validity of a ladder."""
