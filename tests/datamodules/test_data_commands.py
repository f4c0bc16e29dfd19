"""The commands on data sets, as a user sees them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stvg_nst import __main__ as root_module
from stvg_nst.machine import disk_room
from tests.datamodules.published import hcstvg_item


@pytest.fixture
def stvg(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stvg_nst", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        return root_module.main()

    return run


def test_verify_exits_by_what_it_finds(
    stvg: Callable[..., int], hcstvg: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b [x] :dog:.mp4": hcstvg_item()})
    verify = ("data", "verify", "hcstvg_v1", root, "--split", "test", "--subset", "--workers", "1")
    assert stvg(*verify) == 0
    said = capsys.readouterr().out
    assert "What is wrong" not in said
    assert f"2 sentences, 2 videos (2 decoded now): 0 faults, 0 notes; manifest: {root}/hcstvg_v1.manifest.json" in said
    (root / "v1_video" / "b [x] :dog:.mp4").unlink()
    assert stvg(*verify) == 1
    said = capsys.readouterr().out
    assert "v1_video/b [x] :dog:.mp4" in said and "missing" in said and "1 fault, 0 notes" in said


def test_verify_takes_a_part_for_damage_unless_told(
    stvg: Callable[..., int], hcstvg: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    assert stvg("data", "verify", "hcstvg_v1", root, "--split", "test", "--workers", "1") == 1
    assert "the published test split 1,160 sentences" in " ".join(capsys.readouterr().out.split())


def test_stats_of_the_real_validation_file_alone(
    stvg: Callable[..., int], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sent_annos").mkdir()
    (tmp_path / "sent_annos" / "val_annotations.json").symlink_to(shared / "vidstg" / "val_annotations.json")
    assert stvg("data", "stats", "vidstg", tmp_path, "--split", "val", "--plot", tmp_path / "val.png") == 0
    said = capsys.readouterr().out
    for number in ("602", "2,048", "8,956", "3,996", "4,960"):
        assert number in said
    assert "absent: boxes of 8,956 of 8,956 sentences" in said and "absent: 602 of 602 video files" in said
    assert (tmp_path / "val.png").stat().st_size > 10_000


def test_stats_of_the_real_clips(stvg: Callable[..., int], shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stvg("data", "stats", "hcstvg_v1", shared / "real_clips" / "hc-stvg", "--split", "test") == 0
    said = capsys.readouterr().out
    assert "box size" in said and "absent" not in said


def test_degrade_tells_the_size_writes_and_goes_on(
    stvg: Callable[..., int], hcstvg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = hcstvg(test={"a.mp4": hcstvg_item()}), tmp_path / "lq"
    command = ("degrade", "dataset", "hcstvg_v1", root, out, "--split", "test", "--workers", "1")
    assert stvg(*command, "--estimate") == 0
    assert re.search(r"1 of 1 clips to write: about [1-9]\S+ kB in ", capsys.readouterr().out) and not out.exists()
    assert stvg(*command, "--crf", "20") == 0
    said = capsys.readouterr().out
    assert "warning: H.264 at a crf is lossy" in said and f"1 of 1 clips are in {out}" in said
    assert stvg(*command) == 1
    assert "'H.264 at crf 20', but 'lossless' is asked for" in capsys.readouterr().err


def test_cache_tells_the_size_writes_and_goes_on(
    stvg: Callable[..., int], hcstvg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    config = Path(__file__).parents[2] / "experiments" / "data" / "hcstvg_v1.yaml"
    options = {"root": root, "frames": tmp_path / "frames", "expect_official_counts": "false"}
    command = ["cache", "frames", "--config", config, "--split", "test", "--workers", "1"]
    command += [f"--data.init_args.{name}={value}" for name, value in options.items()]
    for size in ("1 of 1 clips to write: 175.1 kB in", "0 of 1 clips to write: 0 bytes in"):
        assert stvg(*command) == 0
        assert f"test: {size}" in capsys.readouterr().out
    assert (tmp_path / "frames" / "test" / "00000" / "frames.bin").stat().st_size == 19 * 48 * 64 * 3


def test_nothing_is_written_where_there_is_no_room(
    stvg: Callable[..., int],
    hcstvg: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: 10)
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    assert stvg("degrade", "dataset", "hcstvg_v1", root, tmp_path / "lq", "--split", "test") == 1
    assert "choose another disk" in capsys.readouterr().err and not (tmp_path / "lq").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["data", "stats", "hcstvg_v1", ".", "--split", "val"], 1, "hcstvg_v1 has the splits train, test, got 'val'"),
        (["data", "stats", "hcstvg_v1", "nowhere", "--split", "test"], 1, "there is no folder 'nowhere'"),
        (["data", "stats", "hcstvg_v1", ".", "--split", "test"], 1, "docs/data.md says what belongs there"),
    ],
)
def test_mistakes_are_told_in_one_line(
    stvg: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert stvg(*arguments) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["verify", "charades", "."], ["verify", "vidstg", ".", "--workers", "0"]])
def test_wrong_arguments_are_refused(stvg: Callable[..., int], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        stvg("data", *arguments)
    assert stop.value.code == 2


def test_splits_are_named_together_or_one_by_one(
    stvg: Callable[..., int], hcstvg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item()}, test={"b.mp4": hcstvg_item()})
    command = ("degrade", "dataset", "hcstvg_v1", root, tmp_path / "lq", "--estimate")
    for splits in ("--split train test", "--split train --split test", "--split=test --split=train --split=test"):
        assert stvg(*command, *splits.split()) == 0
        assert "2 of 2 clips to write" in capsys.readouterr().out
