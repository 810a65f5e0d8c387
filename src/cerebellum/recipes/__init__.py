"""Recipes as files: which type every tensor gets, where that was measured, what may go wrong on a given model."""
