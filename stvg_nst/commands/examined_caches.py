"""Whether the caches of an experiment hold all that its runs show, found out as a run finds it out."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from datamodules import STVGDataModule
from datamodules.caches.array_store import CacheError
from stvg_nst.configuration import Config, merge, nested
from stvg_nst.machine.health import Finding
from stvg_nst.study import Study

Stage = Literal["fit", "test"]


def examine_caches(configs: Iterable[tuple[Config, Stage]]) -> Iterator[Finding]:
    """Reads the annotations that a run would read in a stage, and which clips its caches hold; decodes no film.

    Finds nothing where all is well, and where a cache has no folder yet.
    """
    seen: list[tuple[Any, Stage]] = []
    for config, stage in configs:
        data = config.get("data") or {}
        if (data, stage) in seen:
            continue
        seen.append((data, stage))
        options = data.get("init_args", {})
        folders = [options[name] for name in ("features", "frames") if options.get(name) is not None]
        if not folders or not all(Path(folder).is_dir() for folder in folders):
            continue
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(STVGDataModule, "data")
        try:
            parser.instantiate(parser.parse_object({"data": data})).data.setup(stage)
        except CacheError as error:
            yield Finding("caches", str(error), "lacking")
        except ArgumentError as error:
            yield Finding("data", " ".join(str(error).split()), "lacking")
        except (OSError, ValueError) as error:
            yield Finding("data", str(error), "lacking")


def stages_of_study(study: Study) -> Iterator[tuple[Config, Stage]]:
    """The fit of every point, and every test."""
    yield from ((point, "fit") for point in study.points.values())
    for config in (study.baseline, *study.points.values()):
        for test in study.tests.values():
            yield reduce(merge, (nested(name, value) for name, value in test.items()), config), "test"
