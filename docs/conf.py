"""Sphinx builds the site from this folder: ``make docs``. Notebooks and blocks are run by tests, not here."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pvt_jax  # noqa: E402

project = "pvt_jax"
author = "the pvt_jax authors"
copyright = author
version = release = pvt_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "tables", "pages"]

html_theme = "sphinx_book_theme"
html_title = "pvt_jax"
html_theme_options = {"show_toc_level": 2}
html_copy_source = False

smartquotes = False
nb_execution_mode = "off"
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "special-members": "__call__", "exclude-members": "setup"}
napoleon_use_ivar = True
napoleon_attr_annotations = False
