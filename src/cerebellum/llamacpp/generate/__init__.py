"""Answering requests: likelihoods of continuations, and written text."""
