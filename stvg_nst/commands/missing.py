"""What an experiment, named by its overlays or its study, lacks on this machine: data, weights, caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from huggingface_hub import try_to_load_from_cache

from datamodules.annotated import AnnotatedSource, AnnotationError
from datamodules.annotated.manifest import manifest_file
from datamodules.annotated_videos import AnnotatedVideos
from stvg_nst.configuration import Config, merge, read_overlay, read_yaml
from stvg_nst.machine.health import Finding
from stvg_nst.study import read_studies

_WEIGHTS_PAGE = "docs/weights.md says where to get it"


def examine_experiment(files: Sequence[Path]) -> tuple[Finding, ...]:
    """Looks for all files that a run of these overlays would read; opens neither videos nor weights.

    Args:
        files: overlays in the order of a run, or one study.

    Raises:
        ConfigurationError: one cannot be read.
    """
    if len(files) == 1 and read_yaml(files[0]).keys() & {"points", "extends"}:
        configs: list[Config] = [study.baseline for study in read_studies(files[0])]
    else:
        configs = [reduce(merge, map(read_overlay, files), {})]
    found = [finding for config in configs for finding in (*_of_data(config), *_of_model(config))]
    return tuple(dict.fromkeys(found))  # the grounders of a study share their data


def _of_data(config: Config) -> Iterator[Finding]:
    data = config.get("data")
    if not data:
        yield Finding("data", "none is named", "lacking", "add an overlay of experiments/data/")
        return
    options: Mapping[str, Any] = data.get("init_args", {})
    kind = resolve_name(data["class_path"])
    root = Path(options.get("root", kind.root))
    if issubclass(kind, AnnotatedVideos):
        shown = {"version": options["version"]} if "version" in options else {}
        yield from _of_source(kind(root=root, **shown).source)
    else:
        yield Finding("data", f"{kind.__name__} in '{root}', rendered there on first use")
    for name, command in (("features", "cache features"), ("frames", "cache frames"), ("degraded", "degrade dataset")):
        folder = options.get(name)
        if folder is not None and not Path(folder).is_dir():
            yield Finding(name, f"no folder '{folder}'", "lacking", f"python -m stvg_nst {command} makes it")


def _of_source(source: AnnotatedSource) -> Iterator[Finding]:
    for split in source.splits:
        about, file = f"data, {split}", source.annotation_file(split)
        if not file.is_file():
            yield Finding(about, f"no annotations '{file}'", "lacking", "docs/data.md says where to get them")
            continue
        try:
            annotations = source.read(split).annotations
        except (AnnotationError, FileNotFoundError) as error:
            yield Finding(about, str(error), "lacking")
            continue
        videos = dict.fromkeys(annotation.video for annotation in annotations)
        missing = [video for video in videos if not source.video_file(video).is_file()]
        said = f"{len(annotations):,} sentences, {len(videos) - len(missing):,} of {len(videos):,} videos"
        if missing:
            lacking = f"the first that is missing: '{source.video_file(missing[0])}'"
            yield Finding(about, said, "lacking", f"{lacking}; docs/data.md says where to get them")
        else:
            yield Finding(about, said)
    if not manifest_file(source.root, source.name).is_file():
        advice = f"run `python -m stvg_nst data verify {source.name} {source.root}` before the first run"
        yield Finding("data", "nobody has looked whether its files are sound", "note", advice)


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
        if file not in (None, "random"):
            there = Path(file).is_file()
            advice = _WEIGHTS_PAGE if name == "weights" else "an earlier run leaves it"
            yield Finding(name, f"'{file}'") if there else Finding(name, f"no file '{file}'", "lacking", advice)
    for source in _text_sources(model["grounder"]):
        if Path(source).is_dir():
            yield Finding("tokenizer", f"in '{source}'")
        elif all(try_to_load_from_cache(source, file) for file in ("config.json", "tokenizer.json")):
            yield Finding("tokenizer", f"of '{source}', in the cache of the Hugging Face hub")
        else:
            advice = "run once with a network; docs/weights.md says how to do without"
            yield Finding("tokenizer", f"'{source}' is neither a folder nor in the hub's cache", "lacking", advice)


def _text_sources(component: Any) -> Iterator[str]:
    if isinstance(component, Mapping):
        source = component.get("init_args", {}).get("source")
        if isinstance(source, str):
            yield source
        for part in component.values():
            yield from _text_sources(part)
