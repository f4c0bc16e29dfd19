"""What an experiment, named by its overlays or its study, lacks on this machine: data, weights, caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from datamodules.annotated import AnnotatedSource, AnnotationError
from datamodules.annotated.manifest import manifest_file
from datamodules.annotated_videos import AnnotatedVideos
from datamodules.own_clips.source import OwnClipsSource
from stvg_nst.commands.data_options import data_module_class
from stvg_nst.commands.examined_caches import Stage, examine_caches, stages_of_study
from stvg_nst.commands.full_size import needs_of
from stvg_nst.configuration import Config, ConfigurationError, merge, read_overlay, read_yaml
from stvg_nst.counting import counted
from stvg_nst.machine.health import Finding
from stvg_nst.models.cgstvg.hub import RELEASES
from stvg_nst.sharing import adapter_file, is_reference
from stvg_nst.study import read_studies

_OF_STUDIES = {"points", "extends", "published"}
_WEIGHTS_PAGE = "docs/weights.md says where to get it"
_TOKENIZER_FILES = "config.json tokenizer.json tokenizer_config.json vocab.json merges.txt"


def examine_experiment(files: Sequence[Path], hardware: Sequence[Path] = ()) -> tuple[Finding, ...]:
    """Looks for all files that a run of these overlays reads, and into its caches; opens neither videos nor weights.

    Args:
        files: overlays in the order of a run, or studies.
        hardware: overlays over the runs of studies.

    Raises:
        ConfigurationError: one cannot be read, or they are of both kinds.
    """
    staged: list[tuple[Config, Stage]]
    kinds = {file: bool(read_yaml(file).keys() & _OF_STUDIES) for file in files}
    if len(set(kinds.values())) > 1:
        study, overlay = (next(file for file in files if kinds[file] is kind) for kind in (True, False))
        raise ConfigurationError(f"'{study}' is a study and '{overlay}' an overlay; ask about the one or the other")
    if all(kinds.values()):
        studies = [study for file in files for study in read_studies(file)]
        found = [finding for study in studies for finding in _of_config(study.baseline, trains=bool(study.points))]
        found += needs_of(studies, hardware)
        staged = [pair for study in studies for pair in stages_of_study(study)]
    else:
        nothing: dict[str, Any] = {}
        config = reduce(merge, map(read_overlay, files), nothing)
        found = [*_of_config(config)]
        staged = [(config, "fit"), *([(config, "test")] if _has_test(config) else ())]
    found += examine_caches(staged)
    return tuple(dict.fromkeys(found))  # studies, and the grounders of one, share their data


def _has_test(config: Config) -> bool:
    """Own clips may have no line for the test: then `tune` fits and measures nothing."""
    data = config.get("data") or {}
    if not str(data.get("class_path", "")).endswith("OwnClips"):
        return True
    try:
        return bool(OwnClipsSource(Path(data["init_args"]["root"])).lines_of("test"))
    except (AnnotationError, FileNotFoundError, KeyError):  # which the data's own finding tells
        return True


def _of_config(config: Config, *, trains: bool = True) -> Iterator[Finding]:
    yield from _of_data(config, trains=trains)
    yield from _of_model(config)


def _of_data(config: Config, *, trains: bool) -> Iterator[Finding]:
    data = config.get("data")
    if not data or "class_path" not in data:
        yield Finding("data", "none is named", "lacking", "add an overlay of experiments/data/")
        return
    options: Mapping[str, Any] = data.get("init_args", {})
    try:
        kind = data_module_class(data["class_path"])
    except ConfigurationError as error:
        yield Finding("data", str(error), "lacking")
        return
    root = Path(options.get("root", kind.root))
    if issubclass(kind, AnnotatedVideos):
        shown = {"version": options["version"]} if "version" in options else {}
        has_val = options.get("validation") == "official" or not kind.held_out
        yield from _of_source(kind(root=root, **shown).source, options, trains=trains, has_val=has_val)
    else:
        yield Finding("data", f"{kind.__name__} in '{root}', rendered there on first use")
    for name, command in (("features", "cache features"), ("frames", "cache frames"), ("degraded", "degrade dataset")):
        folder = options.get(name)
        if folder is not None and not Path(folder).is_dir():
            yield Finding(name, f"no folder '{folder}'", "lacking", f"python -m stvg_nst {command} makes it")


def _of_source(
    source: AnnotatedSource, options: Mapping[str, Any], *, trains: bool, has_val: bool
) -> Iterator[Finding]:
    """Args: has_val: whether ``val`` is the data set's own; otherwise it is held out of the training set."""
    is_skipped = options.get("on_bad_video") == "skip"
    named = options.get("manifest")
    place = "" if named is None else f" --manifest {named}"
    verify = f"`python -m stvg_nst data verify {source.name} {source.root}{place}`"
    for split in source.splits:
        if split == "val" and not has_val:
            continue
        if split != "test" and not trains and options.get("evaluation_split", "test") == "test":
            continue
        about, file = f"{source.name}, {split}", source.annotation_file(split)
        if not file.is_file():
            yield Finding(about, f"no annotations '{file}'", "lacking", "docs/data.md says where to get them")
            continue
        try:
            reading = source.read(split)
        except (AnnotationError, FileNotFoundError) as error:
            yield Finding(about, str(error), "lacking")
            continue
        if reading.errors:
            yield Finding(
                about,
                f"{reading.lost:,} faulty sentences, the first: {reading.errors[0]}",
                "note" if is_skipped else "lacking",
                f"{verify} lists all",
            )
        annotations = reading.annotations
        videos = dict.fromkeys(annotation.video for annotation in annotations)
        missing = [video for video in videos if not source.video_file(video).is_file()]
        said = f"{counted(len(annotations), 'sentence')}, {len(videos) - len(missing):,} of {len(videos):,} videos"
        if missing:
            lacking = f"the first that is missing: '{source.video_file(missing[0])}'"
            yield Finding(about, said, "lacking", f"{lacking}; docs/data.md says where to get them")
        else:
            yield Finding(about, said)
    if not Path(named or manifest_file(source.root, source.name)).is_file():
        needed = options.get("on_short_clip", "refuse") != "refuse" or is_skipped or named is not None
        advice = f"run {verify} before the first run"
        yield Finding(
            source.name, "nobody has looked whether its files are sound", "lacking" if needed else "note", advice
        )


def _of_model(config: Config) -> Iterator[Finding]:
    model = config.get("model", {})
    if "grounder" not in model:
        yield Finding("model", "none is named", "lacking", "add an overlay of experiments/model/")
        return
    weights = model.get("weights", "random")
    if weights == "random":
        yield Finding("weights", "random ones: no overlay names a file", "note", "add a *_weights.yaml overlay")
    for name in ("weights", "adapter", "baseline"):
        file = weights if name == "weights" else model.get(name)
        if name == "adapter" and file is not None and is_reference(file):
            yield Finding(name, f"'{file}', which is fetched on first use", "note", "run once with a network")
        elif file not in (None, "random"):
            there = (adapter_file(file) if name == "adapter" else Path(file)).is_file()
            advice = _weights_advice(Path(file)) if name == "weights" else "an earlier run leaves it"
            yield Finding(name, f"'{file}'") if there else Finding(name, f"no file '{file}'", "lacking", advice)
    for source in _text_sources(model["grounder"]):
        if Path(source).is_dir():
            yield Finding("tokenizer", f"in '{source}'")
        elif all(try_to_load_from_cache(source, file) for file in ("config.json", "tokenizer.json")):
            yield Finding("tokenizer", f"of '{source}', in the cache of the Hugging Face hub")
        else:
            advice = f"`hf download {source} {_TOKENIZER_FILES}` with a network; docs/weights.md says how to do without"
            yield Finding("tokenizer", f"'{source}' is neither a folder nor in the hub's cache", "lacking", advice)


def _weights_advice(file: Path) -> str:
    """The command that fetches a release, where a file has the name of one."""
    release = file.stem if file.stem in RELEASES else None
    return f"`python -m stvg_nst convert {release} {file}`; {_WEIGHTS_PAGE}" if release else _WEIGHTS_PAGE


def _text_sources(component: Any) -> Iterator[str]:
    if isinstance(component, Mapping):
        source = component.get("init_args", {}).get("source")
        if isinstance(source, str):
            yield source
        for part in component.values():
            yield from _text_sources(part)
