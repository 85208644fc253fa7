"""Labelled images: datasets, square crops, object instances."""
