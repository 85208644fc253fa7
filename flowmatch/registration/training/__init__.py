"""Training of point-cloud descriptors: recipes, samples, losses, the entry point."""
