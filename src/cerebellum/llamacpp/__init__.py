"""Adapters around llama.cpp. Nothing outside this folder touches ctypes."""
