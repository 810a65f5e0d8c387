"""One model's sensitivity used for another's: maps of depth, profiles by role, few probes, a verdict that can say no."""
