from __future__ import annotations

import csv
import json
import warnings

import pytest
import torch

from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning import NullSpaceTuning, PromptTuning
from stvg_nst.tuning.selection import select_layers
from stvg_nst.tuning.survey import survey_layers

EVERYTHING = ["*"]


def test_a_survey_says_what_a_split_says(toy):
    grounder = toy.ToyGrounder()
    modules = dict(grounder.named_modules())
    for rule, threshold in ("exact", None), ("relative", 0.5), ("energy", 0.7):
        survey = survey_layers(grounder, EVERYTHING, rule=rule, threshold=threshold)
        assert [layer.name for layer in survey.layers] == [
            "pixels",
            "encoder.linear1",
            "encoder.linear2",
            "decoder.linear1",
            "decoder.linear2",
            "head",
        ]
        for layer in survey.layers:
            space = split_dual_space(modules[layer.name].weight, rule=rule, threshold=threshold)
            assert (layer.d_out, layer.d_in) == space.shape
            assert (layer.rank, layer.nullity, layer.rank_ratio) == (space.rank, space.nullity, space.rank_ratio)
            assert layer.sigma_next == pytest.approx(space.sigma_next, abs=1e-9)
            assert layer.exact == space.exact
            assert not layer.selected


@pytest.mark.parametrize("strategy", ["high_nullity", "low_nullity", "random", "structural"])
def test_what_a_survey_marks_is_what_a_tuner_would_get(toy, strategy):
    options = {"strategy": strategy, "share": 0.4, "seed": 3, "exclude": ["pixels"]}
    grounder = toy.ToyGrounder()
    torch.nn.init.zeros_(grounder.decoder.linear1.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties, and the layer without weights
        survey = survey_layers(grounder, EVERYTHING, **options)
        chosen = select_layers(grounder, EVERYTHING, **options)
    assert [layer.name for layer in survey.layers if layer.selected] == list(chosen)
    assert len(survey.layers) == 5


def test_all_marks_all(toy):
    survey = survey_layers(toy.ToyGrounder(), ["head", "decoder.linear2"], strategy="all")
    assert [(layer.name, layer.selected) for layer in survey.layers] == [("decoder.linear2", True), ("head", True)]


def test_a_survey_reads_as_a_table(toy):
    grounder = toy.ToyGrounder()
    with torch.no_grad():
        grounder.pixels.weight.copy_(torch.eye(16, 3) * torch.tensor([4.0, 2.0, 0.5]))
    targets = ["pixels", "decoder", "head"]
    survey = survey_layers(grounder, targets, strategy="high_nullity", share=0.25, rule="relative", threshold=0.2)
    lines = str(survey.ordered("rank_ratio")).splitlines()
    assert lines[0].startswith("4 linear layers, rank by rule 'relative 0.2'; the null space is exact in ")
    assert lines[0].endswith("; * marks the 1 that 'high_nullity' selects")
    assert lines[2].split() == ["layer", "weight", "rank", "ratio", "nullity", "sigma_r+1"]
    assert lines[3].split()[:5] == ["*", "decoder.linear2", "16", "x", "48"]
    ratios = [float(line[2:].split()[5]) for line in lines[3:]]
    assert ratios == sorted(ratios)
    (pixels,) = [line.split() for line in lines[3:] if "pixels" in line]
    assert pixels == ["pixels", "16", "x", "3", "2", "0.667", "1", "5.00e-01"]
    assert len({len(line) for line in lines[2:]}) == 1
    plain = str(survey_layers(grounder, ["encoder.linear?"])).splitlines()
    assert plain[0] == "2 linear layers, rank by rule 'exact'; the null space is exact in 1"
    assert plain[3].split() == ["encoder.linear1", "40", "x", "16", "16", "1.000", "0", "-"]
    assert plain[4].split() == ["encoder.linear2", "16", "x", "40", "16", "0.400", "24", "exact"]


def test_a_survey_is_written_whole(toy, tmp_path):
    survey = survey_layers(toy.ToyGrounder(), EVERYTHING, strategy="random", share=0.5, seed=2)
    survey.write(tmp_path / "new" / "layers.json")
    content = json.loads((tmp_path / "new" / "layers.json").read_text())
    settings = {name: content[name] for name in ("rule", "threshold", "strategy", "share", "seed")}
    assert settings == {"rule": "exact", "threshold": None, "strategy": "random", "share": 0.5, "seed": 2}
    survey.write(tmp_path / "new" / "layers.csv")
    with open(tmp_path / "new" / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, entry, layer in zip(rows, content["layers"], survey.layers, strict=True):
        for name, value in entry.items():
            assert value == getattr(layer, name)
            assert row[name] == str(value)
    assert len(list((tmp_path / "new").iterdir())) == 2
    with pytest.raises(ValueError, match=r"as \.json or \.csv, got '.*layers\.txt'"):
        survey.write(tmp_path / "layers.txt")


def test_a_tuned_model_is_refused(toy):
    grounder = toy.ToyGrounder()
    NullSpaceTuning(["head"], rank=4).inject(grounder)
    with pytest.raises(ValueError, match=r"expected a plain model, got a NullSpaceLinear at 'head'; .*zero_shot"):
        survey_layers(grounder, EVERYTHING)
    grounder = toy.ToyGrounder()
    PromptTuning(["encoder"]).inject(grounder)
    with pytest.raises(ValueError, match="expected a plain model, got a PromptedLayer at 'encoder'"):
        survey_layers(grounder, EVERYTHING)
