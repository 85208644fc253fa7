"""Patch and image-pair datasets: HPatches, Brown, RGB-D."""
