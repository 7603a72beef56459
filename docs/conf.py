"""Settings of the documentation, which `make docs` builds."""

from importlib.metadata import version as installed_version

project = "dask-worker-pools"
author = "dask-worker-pools developers"
project_copyright = "2026, dask-worker-pools developers"
release = installed_version(project)
version = release.partition("+")[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections name the types
numpydoc_show_class_members = False
autosummary_generate = False  # numpydoc turns autosummary on; the pages are written by hand

html_theme = "furo"
html_title = project
