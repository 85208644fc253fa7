"""Evaluation of trackers."""
