"""Surfaces of depth images: signed distance volumes, their meshes and colours."""
