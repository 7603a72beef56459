"""Templates for notebooks, where `dask.widgets` finds them as it does Dask's own."""

from pathlib import Path

from dask.widgets import TEMPLATE_PATHS, get_template

__all__ = ["get_template"]

TEMPLATE_PATHS.append(str(Path(__file__).parent / "templates"))
