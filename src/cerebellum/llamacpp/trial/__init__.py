"""Scoring text with tensors stored in other types: engine, weights, quantizer, graph, replay."""
