"""``results.json``: what one evaluated run leaves behind. The file is written and read here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stvg_nst.results.conditions import MIXED, Conditions, Measurement
from stvg_nst.results.metric_names import MetricName

SCHEMA = 1


class ResultsFileError(ValueError):
    """A file that is not a complete ``results.json``; the message names the file and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """One evaluated run, as its file holds it.

    Args:
        path: the file.
        method: the tuner, such as ``NullSpaceTuning``.
        dataset, split: what it was evaluated on.
        evaluation_conditions: in which conditions each clip was shown; see ``Conditions``.
        measurement: in which precision and how the answers were computed; ``None`` in files from before this field.
        metrics: percent points, keyed like ``HQ/m_vIoU`` or ``LQ/declarative/vIoU@0.5``.
        seed: of the run.
        benchmark_seed: fixes the degradations; runs with different ones saw different LQ clips.
        data: what the pixels depend on.
        degradations: what made the LQ clips: version, seed, source, and hashes of the pixels.
        trainable_parameters, total_parameters: numbers of scalars.
        weights: file of the grounder's weights, ``random`` where it had none; ``None`` in files from before this field.
        injection: every layer that the tuner wrapped, with its shape, rank and nullity.
        versions: library name to version.
        git_commit: ``None`` outside a repository.
        git_dirty: whether the code differed from the commit; ``None`` outside a repository.
        config_hash: of the resolved configuration, ``None`` where no file configured the run.
        machine: accelerator, device, cores and processes.
        wall_seconds: the evaluation's duration.
        skipped: samples that could not be evaluated.
        policies: what was done with faulty data, by option: ``policy``, and what that has ``touched`` of each split.
        samples: per sample at least ``item_id`` and ``quality``, as ``GroundingMetrics.samples()`` gives them.
    """

    path: Path
    method: str
    dataset: str
    split: str
    evaluation_conditions: str = MIXED
    measurement: Measurement | None = None
    metrics: Mapping[str, float]
    seed: int
    benchmark_seed: int
    data: Mapping[str, Any] = field(default_factory=dict)
    degradations: Mapping[str, Any] = field(default_factory=dict)
    trainable_parameters: int
    total_parameters: int
    weights: str | None = None
    injection: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str]
    git_commit: str | None
    git_dirty: bool | None = None
    config_hash: str | None
    machine: Mapping[str, Any] = field(default_factory=dict)
    wall_seconds: float
    skipped: int
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...]

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
        """In words, what each policy for bad boxes and short clips has touched in the split; empty for nothing.

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
    "evaluation_conditions": (str,),
    "measurement": (dict, type(None)),
    "metrics": (dict,),
    "seed": (int,),
    "benchmark_seed": (int,),
    "data": (dict,),
    "degradations": (dict,),
    "trainable_parameters": (int,),
    "total_parameters": (int,),
    "weights": (str, type(None)),
    "injection": (list,),
    "versions": (dict,),
    "git_commit": (str, type(None)),
    "git_dirty": (bool, type(None)),
    "config_hash": (str, type(None)),
    "machine": (dict,),
    "wall_seconds": (float, int),
    "skipped": (int,),
    "policies": (dict,),
    "samples": (list,),
}
"""The fields of the file, in its order. Those with a default in :class:`RunResults` may be missing in an older file."""


def render_results(results: RunResults) -> str:
    """The text of the file.

    Raises:
        TypeError, ValueError: JSON cannot hold some value, from a data module of one's own for instance.
    """
    content = {"schema": SCHEMA, **{name: getattr(results, name) for name in _JSON_TYPES}}
    if results.measurement is not None:
        content["measurement"] = asdict(results.measurement)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def add_certificate(text: str, certificate: Mapping[str, Any]) -> str:
    """The text of a ``results.json`` with the certificate of its run beside the numbers, which stay as they are."""
    return json.dumps({**json.loads(text), "certificate": certificate}, indent=1, allow_nan=False) + "\n"


def load_results(path: Path | str) -> RunResults:
    """Reads and checks one ``results.json``.

    Raises:
        ResultsFileError: the file is missing or unreadable, is no JSON (a run was cut off), was written by something
            else or in another schema, or lacks a field.
    """
    path = Path(path)
    content = _read_object(path)
    if content.get("schema") != SCHEMA:
        found = repr(content["schema"]) if "schema" in content else "no such field"
        raise ResultsFileError(f"{path}: field 'schema' must be {SCHEMA}, got {found}; evaluate the run again")
    required = {own.name for own in fields(RunResults) if own.default is own.default_factory is MISSING}
    for name, types in _JSON_TYPES.items():
        if name in content:
            _check(path, name, content[name], types)
        elif name in required:
            raise ResultsFileError(f"{path}: field '{name}' is missing; evaluate the run again")
    _check_metrics(path, content["metrics"])
    _check_policies(path, content.get("policies", {}))
    _check_objects(path, "injection", content.get("injection", []))
    _check_objects(path, "samples", content["samples"])
    for index, sample in enumerate(content["samples"]):
        for name in ("item_id", "quality"):
            _check(path, f"samples[{index}].{name}", sample.get(name), (str,))
        _check(path, f"samples[{index}].degradation", sample.get("degradation"), (str, type(None)))
    values = {name: content[name] for name in _JSON_TYPES if name in content}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return RunResults(path=path, **values | {"measurement": _measurement(path, content.get("measurement"))})


def _measurement(path: Path, content: Any) -> Measurement | None:
    """What the file says of it; fields that it has beyond those known are of a later version."""
    if content is None:
        return None
    for name in (own.name for own in fields(Measurement) if own.name != "compiled"):
        _check(path, f"measurement.{name}", content.get(name), (str,))
    _check(path, "measurement.compiled", content.get("compiled"), (bool,))
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
    except RecursionError as error:
        raise ResultsFileError(f"{path}: expected JSON of a few levels, got hundreds of them") from error
    except ValueError as error:  # Python's only other complaint
        raise ResultsFileError(f"{path}: expected numbers of a few digits, got an integer of thousands") from error
    if not isinstance(content, dict):
        raise ResultsFileError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _check_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    if not metrics:
        raise ResultsFileError(f"{path}: field 'metrics' is empty; was anything evaluated?")
    for name, value in metrics.items():
        _check(path, f"metrics.{name}", value, (float, int))
        try:
            MetricName.parse(name)
        except ValueError as error:
            raise ResultsFileError(f"{path}: field 'metrics.{name}': {error}") from error
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


def _check_objects(path: Path, name: str, entries: Sequence[Any]) -> None:
    for index, entry in enumerate(entries):
        _check(path, f"{name}[{index}]", entry, (dict,))


def _check(path: Path, name: str, value: Any, types: tuple[type, ...]) -> None:
    # JSON's true is an int to isinstance.
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise ResultsFileError(f"{path}: field '{name}' must be {expected}, got {value!r}")
