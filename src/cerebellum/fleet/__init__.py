"""Engines side by side: on this machine, or on the nodes of a cluster."""
