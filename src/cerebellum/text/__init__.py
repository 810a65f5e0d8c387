"""Texts and conversations, cut into chunks of tokens."""
