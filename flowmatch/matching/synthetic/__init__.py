"""Synthetic patch pairs cut from random views of photographs."""
