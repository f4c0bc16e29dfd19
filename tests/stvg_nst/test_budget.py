from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.budget import budget_text, frozen_grounder, injected_points
from stvg_nst.configuration import read_overlay
from stvg_nst.study import Study, read_studies

TUNERS = "experiments/tuner"


def study(tmp_path: Path, **points: Any) -> Study:
    content = {
        "title": "t",
        "seeds": [0],
        "minutes_per_run": 1,
        "overlays": ["experiments/model/mini.yaml"],
        "baseline": [f"{TUNERS}/zero_shot.yaml"],
        "set": {"model.weights": "random"},
        "points": points,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return read_studies(path)[0]


def test_what_each_point_adapts_and_trains_is_listed_before_it_is_trained(tmp_path: Path) -> None:
    lora = {"overlays": [f"{TUNERS}/lora.yaml", "experiments/scope/encoder.yaml"]}
    points = {"lora": lora, "rank 8": {**lora, "model.tuner.init_args.rank": 8}}
    found = study(
        tmp_path, **points, full={"overlays": [f"{TUNERS}/full.yaml", "experiments/scope/encoder_modules.yaml"]}
    )
    lines = [line.split() for line in budget_text(found).splitlines()]
    # Two layers of 384 inputs and 96 outputs.
    assert ["lora", "2", "61,440", "2.80%"] in lines and ["rank", "8", "2", "7,680", "0.36%"] in lines
    assert ["full", "-", "223,872", "10.51%"] in lines
    layers = [["encoder.layers.0.ffn.linear2"], ["encoder.layers.1.ffn.linear2"]]
    assert lines[lines.index(["lora,", "rank", "8:"]) + 1 :][:2] == layers
    assert ["all", "of", "encoder"] in lines
    assert not any(parameter.requires_grad for parameter in frozen_grounder(found).parameters())


def test_a_study_is_listed_on_another_grounder_whose_random_weights_leave_no_file(tmp_path: Path) -> None:
    nst = {
        "overlays": [f"{TUNERS}/nst.yaml", "experiments/scope/encoder_all.yaml"],
        "model.tuner.init_args.spaces": str(tmp_path / "spaces"),
    }
    weights = {"model": {"weights": str(tmp_path / "absent.safetensors")}}
    found = study(tmp_path, nst=nst, other={"overlays": [f"{TUNERS}/nst.yaml"]}).of_points(["n*"])
    tubedetr = found.under([read_overlay(Path("experiments/model/tubedetr_mini.yaml")), weights])
    assert type(frozen_grounder(tubedetr)).__name__ == "TubeDETR"
    ((_, grounder, _, report),) = injected_points(tubedetr)
    assert type(grounder).__name__ == "TubeDETR" and len(report.layers) == 12
    assert not (tmp_path / "spaces").exists()


def test_a_target_that_matches_nothing_is_an_error_of_its_point(tmp_path: Path) -> None:
    absent = {"overlays": [f"{TUNERS}/lora.yaml"], "model.tuner.init_args.targets": ["encoder.layer.*"]}
    with pytest.raises(ValueError, match=r"point 'absent': target 'encoder\.layer\.\*' matches no"):
        list(injected_points(study(tmp_path, absent=absent)))
