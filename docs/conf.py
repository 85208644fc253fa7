"""Sphinx configuration: ``make docs`` builds the site into ``build/docs``, without a network."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
# Demos call the command line, which measures the terminal; a fixed width keeps its tables whole.
os.environ.setdefault("COLUMNS", "100")

import flowmatch  # noqa: E402

project = "flowmatch"
author = "The flowmatch developers"
copyright = "2026, the flowmatch developers"
version = release = flowmatch.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "weight_cards",
]
exclude_patterns = [
    "_ext",
    "gallery/*.py",
    "gallery/*.ipynb",
    "sg_execution_times.rst",
    "**/sg_execution_times.rst",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
default_role = "literal"  # `name` in a docstring is code
nitpicky = False  # torch's and NumPy's objects are not resolved: the build has no network
suppress_warnings = ["config.cache"]  # the gallery's order is a function

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Reference", "notes_style"), ("References", "notes_style")]
toc_object_entries_show_parents = "hide"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 96
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "demos")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "demo_order.position",
    "backreferences_dir": None,
    "reference_url": {"flowmatch": None},
    "matplotlib_animations": (True, "jshtml"),
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "plot_gallery": "True",
}


html_theme = "pydata_sphinx_theme"
html_title = "flowmatch"
html_static_path = ["_static"]
html_css_files = ["flowmatch.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "start": [], "results": [], "more": []}
html_theme_options = {
    "logo": {"text": "flowmatch"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
    "show_nav_level": 1,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
