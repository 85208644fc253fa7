"""Patches of images: networks that describe and compare them, and matching by them."""
