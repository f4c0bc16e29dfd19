"""What this machine has, and what of it is less than a run wants: found out without torch."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from stvg_nst.machine.control_groups import memory_limit
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.disk_room import SHARED_MEMORY, free_bytes, nearest_folder

Verdict = Literal["ok", "note", "lacking"]

PINS = Path(__file__).resolve().parents[2] / "constraints.txt"
# What numbers and file formats depend on; another release of the rest is not worth a line.
_TOLD = ("torch", "torchvision", "lightning", "jsonargparse", "transformers", "timm", "peft", "av", "safetensors")
_ENOUGH_SHARED = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        about: what it was.
        said: what there is.
        verdict: ``ok``; ``note`` where it works and may surprise; ``lacking`` where something cannot work.
        advice: what to do, empty where there is nothing to do.
    """

    about: str
    said: str
    verdict: Verdict = "ok"
    advice: str = ""


def examine_machine(folder: Path) -> tuple[Finding, ...]:
    """The system, its cores and memory, and the disk of a folder."""
    return (_system(), _cores(), _memory(), *_shared_memory(), _disk(folder))


def examine_packages(pins: Path = PINS) -> tuple[Finding, ...]:
    """The releases of the packages beside those that the suite was tested with."""
    if not pins.is_file():
        return (Finding("packages", f"there is no '{pins}' to compare with", "note"),)
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", pins.read_text(encoding="utf-8"), re.MULTILINE))
    found = {name: _release(name) for name in tested}
    others = [
        f"{name} {found[name] or 'is missing'}, tested {release}"
        for name, release in tested.items()
        if name in _TOLD and _plain(found[name]) != _plain(release)
    ]
    here = f"Python {platform.python_version()}, " + ", ".join(f"{name} {found.get(name)}" for name in _TOLD[:3])
    if not others:
        return (Finding("packages", f"{here}; as tested"),)
    advice = "pip install --constraint constraints.txt --editable '.[dev]' for the tested ones"
    return (Finding("packages", f"{here}; {'; '.join(others)}", "note", advice),)


def _system() -> Finding:
    said = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform == "linux":
        return Finding("system", said)
    return Finding("system", said, "note", "the suite is tested on Linux alone; run `make test` before you rely on it")


def _cores() -> Finding:
    granted, there = granted_cores(), os.cpu_count() or 1
    said = f"{granted}" if granted == there else f"{granted} of the machine's {there}"
    return Finding(
        "cores", said, "ok" if granted > 1 else "note", "" if granted > 1 else "loading and training share it"
    )


def _memory() -> Finding:
    pages = {name: os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_PAGE_SIZE") if name in os.sysconf_names}
    if len(pages) < 2:
        return Finding("memory", "unknown", "note")
    total = pages["SC_PHYS_PAGES"] * pages["SC_PAGE_SIZE"]
    limit = memory_limit()
    if limit is not None and limit < total:
        return Finding("memory", f"{decimal(limit)}, the limit of this job, of {decimal(total)}")
    return Finding("memory", decimal(total))


def _shared_memory() -> Iterable[Finding]:
    """Loaders hand over their batches there, where the system has it."""
    if SHARED_MEMORY.is_dir():
        free = free_bytes(SHARED_MEMORY)
        short = free < _ENOUGH_SHARED
        advice = "start the container with --shm-size=8g, or give --data.init_args.num_workers 0" if short else ""
        yield Finding(str(SHARED_MEMORY), f"{decimal(free)} free", "note" if short else "ok", advice)


def _disk(folder: Path) -> Finding:
    folder = nearest_folder(folder)
    said = f"{decimal(free_bytes(folder))} free in '{folder.resolve()}'"
    if os.access(folder, os.W_OK):
        return Finding("disk", said)
    return Finding("disk", said, "lacking", "this folder may not be written; work in another")


def _release(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plain(release: str | None) -> str:
    """Without the build: 2.11.0+cpu is 2.11.0."""
    return (release or "").partition("+")[0]
