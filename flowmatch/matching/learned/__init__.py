"""Detectors and matchers of other projects, as kornia implements them."""

DESCRIBING_DETECTORS = ("disk", "aliked", "xfeat")
"""Names of detectors that describe their keypoints."""
LEARNED_DETECTORS = (*DESCRIBING_DETECTORS, "keynet")
"""Names of `load_detector`."""
LEARNED_MATCHERS = ("lightglue", "loftr")
"""Names of matchers: `load_lightglue` and `load_loftr`."""
