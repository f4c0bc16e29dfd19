"""``results.json``: what one evaluated run leaves behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stvg_nst.results.conditions import MIXED, Conditions, Measurement

SCHEMA = 1


class ResultsFileError(ValueError):
    """A file that is not a complete ``results.json``; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class RunResults:
    """One evaluated run.

    Args:
        path: the file.
        method: the tuner, such as ``NullSpaceTuning``.
        dataset, split: what it was evaluated on.
        metrics: percent points, keyed like ``HQ/m_vIoU`` or ``LQ/declarative/vIoU@0.5``.
        samples: per sample at least ``item_id`` and ``quality``, as ``GroundingMetrics.samples()`` gives them.
        seed: of the run.
        benchmark_seed: fixes the degradations; runs with different ones saw different LQ clips.
        evaluation_conditions: in which conditions each clip was shown; see ``Conditions``.
        trainable_parameters, total_parameters: numbers of scalars.
        versions: library name to version.
        git_commit: ``None`` outside a repository.
        config_hash: of the resolved configuration, ``None`` where no file configured the run.
        wall_seconds: the evaluation's duration.
        skipped: samples that could not be evaluated.
        policies: what was done with faulty data, by option: ``policy``, and what that has ``touched`` of each split.
        weights: file of the grounder's weights, ``random`` where it had none; ``None`` in files from before this field.
        measurement: in which precision and how the answers were computed; ``None`` in files from before this field.
    """

    path: Path
    method: str
    dataset: str
    split: str
    metrics: Mapping[str, float]
    samples: tuple[Mapping[str, Any], ...]
    seed: int
    benchmark_seed: int
    trainable_parameters: int
    total_parameters: int
    versions: Mapping[str, str]
    git_commit: str | None
    config_hash: str | None
    wall_seconds: float
    skipped: int
    weights: str | None = None
    evaluation_conditions: str = MIXED
    measurement: Measurement | None = None
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def random_weights(self) -> bool:
        """Whether the grounder was never trained, so that the metrics say nothing about the method."""
        return self.weights == "random"

    @property
    def conditions(self) -> Conditions:
        """Numbers from different conditions do not compare."""
        return Conditions(self.dataset, self.split, self.benchmark_seed, self.evaluation_conditions)

    @property
    def touched(self) -> tuple[str, ...]:
        """In words, what each policy for bad boxes and short clips has touched of the split; nothing where none has.

        What is left out altogether is among ``skipped``.
        """
        found = []
        for option, entry in self.policies.items():
            count = entry["touched"].get(self.split, {})
            if option != "on_bad_video" and any(count.values()):
                words = ", ".join(f"{number} {name}" for name, number in count.items())
                found.append(f"{option} {entry['policy']} has touched {words}")
        return tuple(found)

    @property
    def sample_keys(self) -> frozenset[tuple[str, str]]:
        """Item id and condition of every sample: equal for runs that may be compared."""
        return frozenset((sample["item_id"], sample.get("degradation") or sample["quality"]) for sample in self.samples)


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "method": (str,),
    "dataset": (str,),
    "split": (str,),
    "metrics": (dict,),
    "samples": (list,),
    "seed": (int,),
    "benchmark_seed": (int,),
    "trainable_parameters": (int,),
    "total_parameters": (int,),
    "versions": (dict,),
    "git_commit": (str, type(None)),
    "config_hash": (str, type(None)),
    "wall_seconds": (float, int),
    "skipped": (int,),
    "evaluation_conditions": (str,),
    "policies": (dict,),
}


def load_results(path: Path | str) -> RunResults:
    """Reads and checks one ``results.json``.

    Raises:
        ResultsFileError: the file is missing or unreadable, is no JSON (a run was cut off), was written by something
            else or in another schema, or lacks a field.
    """
    path = Path(path)
    content = _read_object(path)
    content.setdefault("evaluation_conditions", MIXED)  # all that there was before results named it
    content.setdefault("policies", {})
    if content.get("schema") != SCHEMA:
        found = repr(content["schema"]) if "schema" in content else "no such field"
        raise ResultsFileError(f"{path}: field 'schema' must be {SCHEMA}, got {found}; evaluate the run again")
    for name, types in _JSON_TYPES.items():
        if name not in content:
            raise ResultsFileError(f"{path}: field '{name}' is missing; evaluate the run again")
        _check(path, name, content[name], types)
    _check_metrics(path, content["metrics"])
    _check_policies(path, content["policies"])
    for index, sample in enumerate(content["samples"]):
        _check(path, f"samples[{index}]", sample, (dict,))
        for name in ("item_id", "quality"):
            _check(path, f"samples[{index}].{name}", sample.get(name), (str,))
        _check(path, f"samples[{index}].degradation", sample.get("degradation"), (str, type(None)))
    _check(path, "weights", content.get("weights"), (str, type(None)))
    values: dict[str, Any] = {own.name: content.get(own.name) for own in fields(RunResults) if own.name != "path"}
    values |= {"samples": tuple(content["samples"]), "measurement": _measurement(path, content.get("measurement"))}
    return RunResults(path=path, **values)


def _measurement(path: Path, content: Any) -> Measurement | None:
    """What the file says of it; fields that it has beyond those known are of a later version."""
    if content is None:
        return None
    _check(path, "measurement", content, (dict,))
    for name in (own.name for own in fields(Measurement) if own.name != "compiled"):
        _check(path, f"measurement.{name}", content.get(name), (str,))
    if not isinstance(content.get("compiled"), bool):
        raise ResultsFileError(f"{path}: field 'measurement.compiled' must be bool, got {content.get('compiled')!r}")
    return Measurement(**{own.name: content[own.name] for own in fields(Measurement)})


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ResultsFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ResultsFileError(f"{path}: is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ResultsFileError(f"{path}: is not JSON ({error}); was the run cut off?") from error
    if not isinstance(content, dict):
        raise ResultsFileError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _check_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    if not metrics:
        raise ResultsFileError(f"{path}: field 'metrics' is empty; was anything evaluated?")
    for name, value in metrics.items():
        _check(path, f"metrics.{name}", value, (float, int))
        if not math.isfinite(value):
            raise ResultsFileError(f"{path}: field 'metrics.{name}' must be finite, got {value}")


def _check_policies(path: Path, policies: Mapping[str, Any]) -> None:
    for option, entry in policies.items():
        place = f"policies.{option}"
        _check(path, place, entry, (dict,))
        _check(path, f"{place}.policy", entry.get("policy"), (str,))
        _check(path, f"{place}.touched", entry.get("touched"), (dict,))
        for split, count in entry["touched"].items():
            _check(path, f"{place}.touched.{split}", count, (dict,))
            for name, number in count.items():
                _check(path, f"{place}.touched.{split}.{name}", number, (int,))


def _check(path: Path, name: str, value: Any, types: tuple[type, ...]) -> None:
    # JSON's true is an int to isinstance.
    if not isinstance(value, types) or isinstance(value, bool):
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise ResultsFileError(f"{path}: field '{name}' must be {expected}, got {value!r}")


def measurement_notes(results: Sequence[RunResults]) -> Iterator[str]:
    """What a reader must know of how results that are shown together were measured."""
    said = [run.measurement for run in results if run.measurement is not None]
    silent = [run for run in results if run.measurement is None]
    if said and silent:
        yield (
            f"{', '.join(str(run.path) for run in silent)}: older than the record of precision, and shown with what "
            f"was measured in {said[0]}"
        )
    devices = sorted({measurement.last_digits for measurement in said})
    if len(devices) > 1:
        yield f"measured on {' and on '.join(devices)}: for that alone the last digits may differ"
