"""How the documentation is built: ``python -m sphinx -W --keep-going docs site``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import figures

import focal_sam_jax

figures.draw_all(Path(__file__).parent / "_static" / "drawn")

project = "focal_sam_jax"
author = "the focal_sam_jax authors"
copyright = "2026, " + author
version = release = focal_sam_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # Formulas show without a network, and from a folder.
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
html_theme = "furo"
html_title = "focal_sam_jax"
html_static_path = ["_static"]

# A broken reference is an error. Types of other packages are named, not linked.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!focal_sam_jax).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_custom_sections = [("Cost", "notes_style")]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
