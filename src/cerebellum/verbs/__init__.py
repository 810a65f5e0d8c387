"""What can be done with a model, one module a verb. Effects live here; arithmetic lives in the pure core."""
