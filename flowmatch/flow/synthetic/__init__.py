"""Synthetic frame pairs with exact flow."""
