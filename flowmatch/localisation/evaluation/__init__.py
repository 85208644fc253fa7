"""Evaluation of localisation: held-out frames, beside retrieval alone and regression."""
