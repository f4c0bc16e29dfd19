from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.report import study as reporting
from stvg_nst.report.choice import choose_command
from stvg_nst.study import StudyError, command, launch

Write = Callable[..., Path]
POINTS = {"a": {}, "b": {"trainer.max_steps": 9}}
LEVELS = {"low": {"model.tuner.init_args.rank": 2}, "high": {"model.tuner.init_args.rank": 6}, "mid": {"trainer.lr": 1}}


@pytest.fixture
def search(tmp_path: Path, program: tuple[str, ...], write: Write, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reporting, "write_levels", lambda findings, folder, console: [])

    def run(*options: str, **changes: Any) -> Path:
        data = {"data.init_args.evaluation_split": "val"}
        path = write(**{"levels": LEVELS, "points": {"a": {}}, "set": data, "seeds": [0]} | changes)
        arguments = [str(path), "--runs", str(tmp_path / "runs"), *options]
        command.study_command(arguments, prog="study", report=reporting.report_study, program=program)
        return path

    return run


def choose(path: Path, tmp_path: Path, *options: str) -> int:
    arguments = (str(path), "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "chosen.yaml"))
    return choose_command([*arguments, *options], prog="choose")


def test_the_best_level_by_was_is_written_with_all_that_was_tried(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = search()
    assert choose(path, tmp_path) == 0
    # WAS is 0.9 of the rank: 1.8, 5.4, and 3.6 of the overlay's own rank 4
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text()) == {"a": {"model.tuner.init_args.rank": 6}}
    assert "# Among 3, by seeds 0: a.\n" in (tmp_path / "chosen.yaml").read_text()
    rows = (tmp_path / "chosen.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["low", "high", "mid"]
    assert [row.split(",")[-1] for row in rows[1:]] == ["False", "True", "False"]
    assert "a: high (of 3; WAS low +1.80, high +5.40, mid +3.60)" in capsys.readouterr().out
    with pytest.raises(StudyError, match=r"chosen\.yaml' exists already"):
        choose(path, tmp_path)
    assert choose(path, tmp_path, "--overwrite") == 0


def test_a_level_that_settings_cannot_say_is_not_chosen(search: Any, tmp_path: Path) -> None:
    path = search(levels={"low": LEVELS["low"], "other": {"overlays": [str(tmp_path / "lora.yaml")]}})
    with pytest.raises(StudyError, match="written as settings, but level 'other' has overlays; say it by dotted names"):
        choose(path, tmp_path)


def test_what_was_tried_goes_where_results_are(search: Any, tmp_path: Path) -> None:
    path, table = search(), tmp_path / "results" / "tried.csv"
    assert choose(path, tmp_path, "--table", str(table)) == 0
    assert len(table.read_text().splitlines()) == 4
    assert not (tmp_path / "chosen.csv").exists()
    assert f"# m_vIoU. {table} holds all that were tried.\n" in (tmp_path / "chosen.yaml").read_text()
    with pytest.raises(StudyError, match=r"chosen\.yaml' exists already"):
        choose(path, tmp_path, "--table", str(table))


def test_a_file_of_choices_is_a_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        choose(tmp_path / "study.yaml", tmp_path, "--output", str(tmp_path / "chosen.v2"))
    assert "--output names a .yaml, got" in capsys.readouterr().err and not (tmp_path / "chosen.yaml").exists()


def test_an_overlay_is_never_replaced_by_choices(search: Any, tmp_path: Path) -> None:
    path = search()
    (tmp_path / "chosen.yaml").write_text("trainer: {max_epochs: 3}\n")
    with pytest.raises(StudyError, match=r"chosen\.yaml' is no file of choices"):
        choose(path, tmp_path, "--overwrite")
    assert (tmp_path / "chosen.yaml").read_text() == "trainer: {max_epochs: 3}\n"


def test_a_choice_at_the_edge_is_called_so(search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {name: LEVELS[name] for name in ("low", "high")}
    choose(search(levels=levels), tmp_path)
    assert "a: high, the edge of the grid (of 2;" in capsys.readouterr().out
    choose(search(levels=levels, ordered_levels=False), tmp_path, "--overwrite")
    assert "a: high (of 2;" in capsys.readouterr().out, "kinds have no edge"


@pytest.mark.parametrize("split", ["test", "val_ablate", "confirm"])
def test_choices_need_the_validation_split(search: Any, tmp_path: Path, split: str) -> None:
    path = search(set={"data.init_args.evaluation_split": split})
    with pytest.raises(StudyError, match=f"on the split 'val' or its half 'search', but the study measured '{split}'"):
        choose(path, tmp_path)


def test_choices_can_be_made_on_a_half_of_the_validation_split(search: Any, tmp_path: Path) -> None:
    assert choose(search(set={"data.init_args.evaluation_split": "val_search"}), tmp_path) == 0


def test_an_unfinished_grid_is_no_equal_chance(search: Any, tmp_path: Path) -> None:
    path = search("--only", "a, low", "a, high")
    with pytest.raises(StudyError, match="runs are missing of a, mid; run the study to its end first"):
        choose(path, tmp_path)
    assert not (tmp_path / "chosen.yaml").exists()


def test_fewer_seeds_may_choose_and_are_counted(search: Any, tmp_path: Path) -> None:
    path = search("--seeds", "1", seeds=[0, 1])
    with pytest.raises(StudyError, match=r"runs are missing of a, low; .* or by fewer seeds with --seeds"):
        choose(path, tmp_path)
    with pytest.raises(StudyError, match="the study has no seed 2; it has 0, 1"):
        choose(path, tmp_path, "--seeds", "2")
    assert choose(path, tmp_path, "--seeds", "1") == 0
    assert "# Among 3, by seeds 1: a.\n" in (tmp_path / "chosen.yaml").read_text()
    assert [row.split(",")[2] for row in (tmp_path / "chosen.csv").read_text().splitlines()[1:]] == ["1", "1", "1"]


def test_what_was_chosen_before_is_kept_of_the_other_points(
    search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = search("--only", "a, *", points=POINTS)
    (tmp_path / "chosen.yaml").write_text(
        "# What `python -m stvg_nst choose` chose\nb:\n  model.tuner.init_args.rank: 2\nstranger:\n  trainer.lr: 1\n"
    )
    (tmp_path / "chosen.csv").write_text("point,level\nb,low\nstranger,low\n")
    with pytest.raises(StudyError, match=r"runs are missing of b, low; b, high; b, mid; .* others with --only"):
        choose(path, tmp_path, "--overwrite")
    with pytest.raises(StudyError, match="the study has no point 'c'; it has 'a', 'b'"):
        choose(path, tmp_path, "--overwrite", "--only", "c")
    assert choose(path, tmp_path, "--overwrite", "--only", "a") == 0
    ranks = {name: {"model.tuner.init_args.rank": rank} for name, rank in (("a", 6), ("b", 2))}
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text()) == ranks
    assert [row.split(",")[0] for row in (tmp_path / "chosen.csv").read_text().splitlines()[1:]] == ["a", "a", "a", "b"]
    assert (
        "# Kept as they were chosen before (the table counts their seeds): b.\n"
        in (tmp_path / "chosen.yaml").read_text()
    )
    assert "kept as they were chosen before: b\n" in capsys.readouterr().out


def test_a_level_that_diverges_is_not_chosen(search: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    high = {"high": LEVELS["high"] | {"trainer.act": "diverge"}}
    assert choose(search(levels=LEVELS | high), tmp_path) == 0
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text()) == {"a": {"trainer.lr": 1}}
    assert [row.split(",")[-1] for row in (tmp_path / "chosen.csv").read_text().splitlines()[1:]] == [
        "False",
        "diverged",
        "True",
    ]
    assert "a: mid, the edge of the grid (of 3; WAS low +1.80, high diverged, mid +3.60)" in capsys.readouterr().out


def test_a_run_that_failed_by_accident_decides_nothing(search: Any, tmp_path: Path) -> None:
    """For lack of memory, for instance: the level might have won, and is to be tried again."""
    high = {"high": LEVELS["high"] | {"trainer.act": "die"}}
    with pytest.raises(StudyError, match=r"runs are missing of a, high \(the last attempt failed\); run the study"):
        choose(search(levels=LEVELS | high), tmp_path)
    assert not (tmp_path / "chosen.yaml").exists()


def test_a_point_of_which_every_level_diverges_has_no_choice(search: Any, tmp_path: Path) -> None:
    levels = {name: settings | {"trainer.act": "diverge"} for name, settings in LEVELS.items()}
    with pytest.raises(StudyError, match="a run of every level of a diverged"):
        choose(search(levels=levels), tmp_path)


def test_a_seed_that_is_named_twice_counts_once(search: Any, tmp_path: Path) -> None:
    path = search(seeds=[0, 1])
    assert choose(path, tmp_path, "--seeds", "1", "1") == 0
    assert "# Among 3, by seeds 1: a.\n" in (tmp_path / "chosen.yaml").read_text()
