"""Training of flow networks: recipes, losses, the entry point."""
