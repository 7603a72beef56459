"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("dask", "distributed", "numpy", "xarray", "zarr", "pandas", "scipy")


def describe() -> dict[str, str]:
    """Processor, memory, system and versions, as text."""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}"
        if platform.system() == "Linux"
        else platform.platform(),
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "dask-worker-pools": version("dask-worker-pools"),
    }


def processor() -> str:
    """Model of the processor; its architecture where the system does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
