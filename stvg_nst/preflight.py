"""What must hold before a run begins: of what is trained, of its clips, sentences and tubes, and of its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.data import DataLoader

from stvg_nst.inference import NEEDS_FRAMES, InferenceProtocol
from stvg_nst.models.base import Grounder, ReferencePoint
from stvg_nst.results.conditions import Conditions, Measurement
from stvg_nst.results.results_file import RunResults
from stvg_nst.tuning.base import Tuner, TuningModule
from stvg_nst.types import Batch


def require_frozen_fusion(grounder: Grounder, tuner: Tuner) -> None:
    """Kept encodings stand in for what the grounder makes ahead of its decoders.

    Raises:
        ValueError: a part of that is tuned.
    """
    for part in grounder.fusion():
        tuned = any(isinstance(module, TuningModule) for module in part.modules())
        if tuned or any(parameter.requires_grad for parameter in part.parameters()):
            name = next(name for name, module in grounder.named_modules() if module is part)
            raise ValueError(
                f"{type(tuner).__name__} tunes '{name}' of the grounder, which kept encodings take for frozen; leave "
                "out --model.encodings, or tune the decoders only (experiments/scope/decoder.yaml)"
            )


def require_taught_by_twin(grounder: Grounder, twin: float) -> None:
    """Without annotations the clean twin alone teaches, and it knows what lies ahead of the decoders.

    Raises:
        ValueError: it has no weight, or something behind that is trained.
    """
    if not twin:
        raise ValueError(
            "--model.annotated false leaves the clean twin as the only teacher; give --model.twin a weight above 0"
        )
    point = (module for module in grounder.modules() if isinstance(module, ReferencePoint))
    ahead = (*grounder.backbones(), *grounder.fusion(), *point)
    taught = {parameter for part in ahead for parameter in part.parameters()}
    for name, parameter in grounder.named_parameters():
        if parameter.requires_grad and parameter not in taught:
            raise ValueError(
                f"--model.annotated false: the clean twin teaches what lies ahead of the decoders, and '{name}' is "
                "behind it; choose a scope without decoders (experiments/scope/encoder_all.yaml)"
            )


def require_own_weights(precision: str) -> None:
    """An adapter is trained on the frozen weights as they are.

    Args:
        precision: of the trainer, such as ``bf16-mixed``.

    Raises:
        ValueError: it turns the weights themselves into another type.
    """
    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(
            f"--trainer.precision {precision} turns the weights themselves into another type, and an "
            "adapter would not fit the weights that it was trained on; give bf16-mixed, 16-mixed or 32-true"
        )


def require_twins(datamodule: object, twin: float) -> None:
    """The clean twin is made of each degraded training clip's high-quality version.

    Args:
        datamodule: whose ``twins`` says whether its training clips bring them.
        twin: the weight of the clean twin.

    Raises:
        ValueError: it has a weight, and the clips do not bring them.
    """
    if twin and not getattr(datamodule, "twins", False):
        raise ValueError(
            f"--model.twin {twin:g} needs each degraded training clip in high quality too; give "
            "--data.init_args.twins true, or --model.twin 0"
        )


def require_use_of_extra_clips(datamodule: object, tuner: Tuner) -> None:
    """Extra clips, of which only the quality is known, are read for a router that learns from them.

    Raises:
        ValueError: ``extra_clips`` of the data module asks for some, and the tuner has no such router.
    """
    extra = getattr(datamodule, "extra_clips", 0)
    if extra and not tuner.learns_from_extra_clips:
        raise ValueError(
            f"--data.init_args.extra_clips {extra} are for a router that reads statistics, and this "
            f"{type(tuner).__name__} has none; set router_reads to statistics, or extra_clips to 0"
        )


def require_features_for_encodings(grounder: Grounder, cached: str | None) -> None:
    """Kept encodings are found by a clip's features, which stay the same only where they are cached.

    Args:
        cached: the fingerprint of the backbones that made the cached features, ``None`` without a cache.

    Raises:
        ValueError: encodings are kept, and features are not cached.
    """
    if grounder.encodings is not None and cached is None:
        raise ValueError(
            "--model.encodings keeps what comes of each clip's features, which are new in every epoch unless they "
            "are cached; set --data.init_args.features, or leave out --model.encodings"
        )


def require_frames_for_passes(protocol: InferenceProtocol, cached: str | None) -> None:
    """Two passes are made over frames: a training of hours must not end in that.

    Args:
        protocol: how clips are shown where they are measured.
        cached: as in :func:`require_features_for_encodings`.

    Raises:
        ValueError: two passes, and features are cached.
    """
    if protocol == "two_pass" and cached is not None:
        raise ValueError(NEEDS_FRAMES)


def clips_for_gate(datamodule: object, tuner: Tuner) -> DataLoader[Batch]:
    """The clean validation clips that the threshold of a gate is set by, when the fit ends.

    Raises:
        ValueError: the data module has none to offer: a fit of hours must not end in that.
    """
    why = f"{type(tuner).__name__} sets the threshold of its gate by clean clips of the validation split"
    loader = getattr(datamodule, "clean_validation_loader", None)
    if loader is None:
        raise ValueError(
            f"{why}, but the trainer has no data module with `clean_validation_loader`; fit with one, or leave out "
            "--model.tuner.init_args.false_alarms"
        )
    clean: DataLoader[Batch] = loader()
    if not len(clean):
        raise ValueError(
            f"{why}, when the fit ends, but that split has none; show it at least one, or leave out "
            "--model.tuner.init_args.false_alarms"
        )
    return clean


def require_tubes(datamodule: object, split: str, advice: str) -> None:
    """What is measured, or taught by annotations, has a tube.

    Args:
        datamodule: its ``records`` of the split, if it has some, are looked at.
        advice: what one may do instead of giving the tubes.

    Raises:
        ValueError: sentences of the split have none.
    """
    records = getattr(datamodule, "records", {}).get(split, ())
    # Records of a data set of one's own have a tube, and need not say so.
    without = [record.item_id for record in records if not getattr(record, "has_tube", True)]
    if without:
        raise ValueError(
            f"{len(without):,} of {len(records):,} sentences of the {split} split have no tube, the first "
            f"'{without[0]}'; {advice}, or take them out"
        )


def require_readable(grounder: Grounder, split: str, queries: Mapping[str, str]) -> None:
    """Refuse sentences that the grounder would stumble over at some later batch.

    Args:
        split: that they are of.
        queries: by item.

    Raises:
        ValueError: there are such; the first few items are named.
    """
    different = list(dict.fromkeys(queries.values()))
    found = {different[index]: fault for index, fault in grounder.query_faults(different).items()}
    faults = [f"'{item}' {found[query]}" for item, query in queries.items() if query in found]
    if faults:
        first = ", ".join(faults[:3]) + ", ..." * (len(faults) > 3)
        raise ValueError(
            f"the grounder cannot read {len(faults):,} of the {len(queries):,} sentences of the {split} split: "
            f"{first}; correct or shorten them in the annotation file, or take them out of it"
        )


def require_comparable(
    baseline: RunResults, conditions: Conditions, measurement: Measurement, weights: str, stage: str
) -> None:
    """A baseline was measured as this run measures. Older files do not say in which precision, or with which weights.

    Args:
        conditions: what ``stage`` measures on.
        measurement: how it computes its answers.
        weights: path of the grounder's, or ``random``.

    Raises:
        ValueError: a difference to the baseline would be one of data, precision or grounder too.
    """
    if baseline.conditions != conditions:
        raise ValueError(
            f"the baseline '{baseline.path}' was measured on {baseline.conditions}, but this `{stage}` "
            f"measures on {conditions}; give zero-shot results of the same, or leave out --model.baseline"
        )
    if baseline.measurement is not None and not measurement.compares_with(baseline.measurement):
        raise ValueError(
            f"the baseline '{baseline.path}' was measured in {baseline.measurement}, but this `{stage}` "
            f"measures in {measurement}; give zero-shot results of the same, or leave out --model.baseline"
        )
    if baseline.weights is not None and Path(baseline.weights).resolve() != Path(weights).resolve():
        raise ValueError(
            f"the baseline '{baseline.path}' was measured with the weights '{baseline.weights}', "
            f"but this `{stage}` has '{weights}'; give zero-shot results of the same grounder, or leave out "
            "--model.baseline"
        )
