"""The tuned models of a page: runs that hold an adapter, and the one that comes with the suite."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.results.run_folder import RunFile

SHIPPED = "mini"
_MAIN_JOB = ("mini", "nst_encoder")  # the last two folders of the run that `make train` makes


def tuned_runs(folders: Iterable[Path]) -> list[Path]:
    """Finished fits below some folders."""
    found = {path.parent for folder in folders for path in folder.rglob(RunFile.ADAPTER)}
    runs = [run for run in found if (run / RunFile.CONFIG).is_file()]
    return sorted(runs, key=str)


class Models:
    """Loads a model when it is first asked for. Only these names are opened, whatever a browser sends.

    Args:
        folders: that hold runs.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(folders)
        self._runs = {str(run): run for run in tuned_runs(self.folders)}
        self._loaded: dict[str, VideoGrounder] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """Of the tuned models: that of `make train`, the one that comes with the suite, then all others."""
        main_job = [name for name, run in self._runs.items() if run.parts[-2:] == _MAIN_JOB]
        return list(dict.fromkeys([*main_job, SHIPPED, *self._runs]))

    def folder(self, name: str) -> Path | None:
        """Of the run, for what else it holds; ``None`` for the model that comes with the suite."""
        return self._runs.get(name)

    def get(self, name: str) -> VideoGrounder:
        """The model of that name.

        Raises:
            ValueError: there is no model of that name.
            AdapterMismatchError, WeightsMismatchError, DescriptionError, OSError: its files cannot be used.
        """
        if name not in self.names:
            raise ValueError(f"there is no tuned model '{name}' here; choose one of the list")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(self._runs.get(name, SHIPPED))
            return self._loaded[name]
