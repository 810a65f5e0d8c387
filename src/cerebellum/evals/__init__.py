"""Benchmarks: question sets, how they are asked, how answers are judged. `cerebellum.verbs.bench` runs them."""
