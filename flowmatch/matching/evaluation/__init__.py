"""Evaluation of descriptors and matches."""
