"""Datasets of frame pairs with known flow, and their augmentation."""
