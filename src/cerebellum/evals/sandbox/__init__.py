"""Running what a model wrote: in a box, with limits, judged from another box."""

from cerebellum.evals.sandbox.runner import Limits, Outcome, Sandbox

__all__ = ["Limits", "Outcome", "Sandbox"]
