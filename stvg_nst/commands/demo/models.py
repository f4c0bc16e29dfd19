"""The tuned models of a page: runs that hold an adapter, and the shipped one where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.prediction.loading import find_source
from stvg_nst.results.run_folder import RunFile

SHIPPED = "mini"


def tuned_runs(folders: Iterable[Path]) -> list[Path]:
    """Finished fits below some folders, that of `make train` first."""
    found = {path.parent for folder in folders for path in folder.rglob(RunFile.ADAPTER)}
    runs = [run for run in found if (run / RunFile.CONFIG).is_file()]
    return sorted(runs, key=lambda run: (run.parts[-2:] != ("mini", "nst"), str(run)))


class Models:
    """Loads a model when it is first asked for. Only these names are opened, whatever a browser sends.

    Args:
        folders: that hold runs.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        shipped = [Path(SHIPPED)] if find_source(SHIPPED).adapter is not None else []
        self._sources = {str(source): source for source in (*tuned_runs(folders), *shipped)}
        self._loaded: dict[str, VideoGrounder] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """Of the tuned models; none where nothing was tuned yet."""
        return [*self._sources]

    def folder(self, name: str | None) -> Path | None:
        """Of the run, for what else it holds."""
        return self._sources.get(name or "")

    def get(self, name: str | None) -> VideoGrounder:
        """The model of that name, or the frozen miniature for ``None``.

        Raises:
            ValueError: there is no model of that name.
            AdapterMismatchError, WeightsMismatchError, DescriptionError, OSError: its files cannot be used.
        """
        if name is not None and name not in self._sources:
            raise ValueError(f"there is no tuned model '{name}' here; choose one of the list")
        with self._lock:
            key = name or ""
            if key not in self._loaded:
                self._loaded[key] = load(SHIPPED) if name is None else load(self._sources[name])
            return self._loaded[key]
