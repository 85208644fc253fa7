"""Evaluation of optical flow: metrics, datasets, reports."""
