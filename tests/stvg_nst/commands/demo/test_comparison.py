"""One question to a frozen and a tuned model, as the page asks it."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.commands.demo import films
from stvg_nst.commands.demo.comparison import compare
from stvg_nst.commands.demo.models import Models
from stvg_nst.commands.demo.words import meter, promise, verdict
from stvg_nst.configuration import merge, read_overlay
from tests.stvg_nst.prediction.adapters import save_random_adapter


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a fit of a miniature TubeDETR, whose answers have no confidence and no actioness."""
    folder = tmp_path / "runs" / "nst"
    folder.mkdir(parents=True)
    overlays = ("base", "data/mini", "model/tubedetr_mini", "tuner/zero_shot")
    nothing: dict[str, Any] = {"model": {"weights": "random"}}
    config = reduce(merge, (read_overlay(Path(f"experiments/{name}.yaml")) for name in overlays), nothing)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    decoder = ["decoder.layers.*.ffn.linear2"]
    save_random_adapter(folder / "adapter.safetensors", model=folder, targets=decoder, router="shared")
    return folder


@pytest.mark.slow
def test_a_network_that_says_nothing_frame_by_frame_is_shown_like_any_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "NUM_CLIPS", 1)
    (film,) = films.benchmark_films(tmp_path / "data").values()
    models = Models([run.parent])
    name = next(name for name in models.names if name == str(run))
    grounder = models.get(name)
    assert type(grounder.frozen.grounder).__name__ == "TubeDETR"
    found = compare(grounder, film.file, film.sentences[0], film.truth, tmp_path, lambda share, words: None)
    assert found.tuned is not None and found.tuned_film is not None
    assert found.frozen_film.stat().st_size and found.tuned_film.stat().st_size
    assert 0 < found.tuned.confidence < 1 and found.tuned.confidence != found.frozen.confidence
    assert "overlap with the truth" in verdict(found) and "role='meter'" in meter(found)
    assert str(run) in promise(models.folder(name), found)
