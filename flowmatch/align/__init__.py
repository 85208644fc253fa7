"""Geometric matching: the affine and thin-plate transform between two pictures."""
