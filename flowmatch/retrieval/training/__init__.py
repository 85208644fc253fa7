"""Training of retrieval networks: verified pairs, recipes, the training entry point."""
