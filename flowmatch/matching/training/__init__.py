"""Training of patch networks: recipes and the entry point."""
