"""Similarity learning, of whatever is embedded."""
