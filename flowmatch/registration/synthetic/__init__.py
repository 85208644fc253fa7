"""Synthetic scans: rooms of solids under a virtual depth camera."""
