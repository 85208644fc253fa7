"""Order of the gallery: from the first demo to try to the last. Demos not listed come last."""

DEMOS = (
    "flow_of_a_pair",
    "flow_of_a_clip",
    "match_two_photos",
    "stitch_a_panorama",
    "register_two_scans",
    "align_two_pictures",
    "search_an_index",
    "track_a_box",
    "stacked_or_siamese_flow",
    "correlation_in_a_network",
    "compare_patch_stacks",
    "embed_digits",
    "verify_identity",
    "pairs_from_a_video",
    "benchmark_a_kernel",
)


def position(file: str) -> int:
    """Return the position of a demo in the gallery."""
    name = file.removesuffix(".py")
    return DEMOS.index(name) if name in DEMOS else len(DEMOS)
