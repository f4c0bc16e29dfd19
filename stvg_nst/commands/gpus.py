"""The GPUs that PyTorch sees, and why a run would be on the CPU where it sees none."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
from rich.filesize import decimal

from stvg_nst.machine.health import Finding

_WRONG_BUILD = "install a build of PyTorch for the driver's CUDA: https://pytorch.org/get-started/locally"


def examine_gpus() -> tuple[Finding, ...]:
    """One finding for the driver and PyTorch's CUDA, and one for each GPU."""
    built = torch.version.cuda
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        cuda = Finding("CUDA", f"PyTorch is built for {built}, the driver for {_driver_cuda() or 'an unknown one'}")
        return (cuda, *(_gpu(index) for index in range(count)))
    if torch.backends.mps.is_available():
        return (Finding("GPU", "Apple's, which no test here has run on", "note", "use --trainer.accelerator cpu"),)
    return (Finding("GPU", f"none: runs are on the CPU, because {_why_none(built)}", "note"),)


def _gpu(index: int) -> Finding:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    own = f"sm_{properties.major}{properties.minor}"
    said = f"{properties.name}, {decimal(free)} of {decimal(total)} free, {own}"
    # A kernel of the same major architecture runs on later minor ones.
    fits = any(name.startswith(f"sm_{properties.major}") for name in torch.cuda.get_arch_list())
    about = f"GPU cuda:{index}"
    return (
        Finding(about, said)
        if fits
        else Finding(about, f"{said}, for which PyTorch has no code", "lacking", _WRONG_BUILD)
    )


def _why_none(built: str | None) -> str:
    driver = _driver_cuda()
    if driver is None:
        has_card = any(Path("/proc/driver/nvidia/gpus").glob("*"))
        return "the driver's library, libcuda, is not found" if has_card else "there is no NVIDIA driver"
    if built is None:
        return f"PyTorch is built without CUDA, though there is a driver for {driver}; {_WRONG_BUILD}"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs; unset it"
    if int(driver.partition(".")[0]) < int(built.partition(".")[0]):
        return f"the driver is for CUDA {driver}, and PyTorch is built for {built}; renew the driver, or {_WRONG_BUILD}"
    return f"PyTorch, built for CUDA {built}, finds no device that it can use under a driver for {driver}"


def _driver_cuda() -> str | None:
    """The latest CUDA that the NVIDIA driver serves, such as 12.4; ``None`` where there is no driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0 or not version.value:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
