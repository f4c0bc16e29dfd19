"""What made a result: the program, its libraries, the configuration and the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from stvg_nst.results.run_folder import RunFile

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "lightning": ("lightning",),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "av": ("av",),
    "albumentations": ("albumentations",),
    "numpy": ("numpy",),
    "cv2": (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ),
}
"""Libraries that can change a number: as they are imported, and the distributions that they may come from."""


def software_versions() -> dict[str, str]:
    """The interpreter, the project, and the libraries that can change a number.

    A library is listed under every installed distribution that provides it, for each may have written the files that
    are imported. A library without a distribution's metadata is listed under its own name.
    """
    versions = {
        "python": platform.python_version(),
        # Run from its folder, the commit says more than a version could.
        "stvg_nst": _distribution_version("stvg_nst") or "not installed",
    }
    for module, distributions in LIBRARIES.items():
        found = {name: number for name in distributions if (number := _distribution_version(name))}
        if not found:  # the module says its version itself, but is not imported for that
            own = getattr(sys.modules.get(module), "__version__", "version unknown")
            found = {module: f"{own}, without the metadata of a distribution"}
        versions |= found
    return versions


def _distribution_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def config_hash(folder: Path) -> str | None:
    """SHA-256 of the configurations of the fit and of the test, ``None`` where the run was not configured by files."""
    files = [folder / name for name in (RunFile.CONFIG, RunFile.TEST_CONFIG) if (folder / name).exists()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else None


def machine(device: torch.device, processes: int) -> dict[str, str | int | None]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"accelerator": device.type, "device": name, "cores": os.cpu_count(), "processes": processes}
