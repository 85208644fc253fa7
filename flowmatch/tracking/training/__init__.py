"""Training of tracking networks."""
