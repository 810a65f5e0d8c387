"""Comparisons with the stock llama.cpp programs, and the recipe that builds those."""
