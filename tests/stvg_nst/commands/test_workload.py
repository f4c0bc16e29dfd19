"""What studies on real data take: clips by the published numbers of sentences, and hours of a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stvg_nst.commands.workload import read_throughput, workload, workload_of
from stvg_nst.configuration import ConfigurationError
from stvg_nst.study import Study, StudyError, read_studies


def part(name: str) -> Study:
    return read_studies(Path(f"experiments/paper/{name}.yaml"))[0]


def test_work_by_hand() -> None:
    zero_shot = workload_of(part("hcstvg_v1/zero_shot"))
    assert (zero_shot.runs, zero_shot.trained, zero_shot.tested) == (0, 0, 2 * 1160), "HQ alone, in two passes"
    peers = workload_of(part("vidstg/peers"))
    assert (peers.runs, peers.trained) == (18, 18 * 32_000) and peers.tested == 19 * 2 * 2 * 10_303
    rates = workload_of(part("hcstvg_v1/rates"))
    assert (rates.runs, rates.tested) == (6, 7 * 2 * 2 * 225), "half of a tenth of 4,500"
    assert rates.gpu_hours({"training": 10, "inference": 20}) == pytest.approx((19_200 + 315) / 3600)


def test_each_test_counts_with_its_own_settings() -> None:
    study = part("vidstg/peers")
    name, passes = "data.init_args.evaluation_conditions", 2
    tests = {"mixed": {}, "matrix": {name: "matrix"}, "clean": {name: ["HQ"], "model.inference": "single_pass"}}
    assert workload_of(replace(study, tests=tests)).tested == 19 * 10_303 * (2 * passes + 21 * passes + 1)


def test_an_official_validation_set_counts_by_its_own_size() -> None:
    official = {"data.init_args.validation": "official", "data.init_args.evaluation_split": "val"}
    study = replace(part("vidstg/peers"), tests={"": official})
    assert workload_of(study).tested == 19 * 2 * 2 * 8_956


def test_hours_are_said_once_a_throughput_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, file = "experiments/paper/hcstvg_v1/rates.yaml", tmp_path / "throughput.yaml"
    assert workload([study, "--throughput", str(file)], "workload") == 0
    said = capsys.readouterr().out
    assert (
        "192,000" in said and "GPU-hours are not known" in said and f"--throughput {file}" in "".join(said.splitlines())
    )
    file.write_text("{device: NVIDIA H100, training: 10, inference: 20}")
    assert workload([study, "--throughput", str(file)], "workload") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "hours of one NVIDIA H100" in said and "5.4" in said and "not known" not in said
    file.write_text("{device: NVIDIA H100, training: 0, inference: 20}")
    with pytest.raises(ConfigurationError, match=r"throughput\.yaml: expected a device's name"):
        read_throughput(file)


def test_other_data_sets_have_no_published_size() -> None:
    with pytest.raises(StudyError, match="the sizes of MiniSTVG are not published"):
        workload_of(read_studies(Path("experiments/ablate/gate.yaml"))[0])
    study = part("hcstvg_v1/zero_shot")
    own = {**study.baseline, "data": {"class_path": "datamodules.OwnClips", "init_args": {"root": "data/own"}}}
    with pytest.raises(StudyError, match="the sizes of OwnClips are not published"):
        workload_of(replace(study, baseline=own))
