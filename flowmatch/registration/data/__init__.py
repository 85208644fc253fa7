"""Datasets of point-cloud fragments with known motions."""
