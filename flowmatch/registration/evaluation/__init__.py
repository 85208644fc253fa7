"""Evaluation of point-cloud descriptors and registrations."""
