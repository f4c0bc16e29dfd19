from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.published import vidor_file, write_clip, write_json


@pytest.fixture
def hcstvg(tmp_path: Path) -> Callable[..., Path]:
    """Builds HC-STVG v1: annotations by split, and a video for each of their names."""

    def build(**splits: dict[str, Any]) -> Path:
        for split, items in splits.items():
            write_json(tmp_path / "annos" / "hcstvg_v1" / f"{split}.json", items)
            for seed, name in enumerate(items):
                write_clip(tmp_path / "v1_video" / name, seed=seed)
        return tmp_path

    return build


@pytest.fixture
def vidstg(tmp_path: Path) -> Callable[..., Path]:
    """Builds VidSTG in the official form: annotations by split, VidOR's files, and the videos in VidOR's subfolders."""

    def build(**splits: list[dict[str, Any]]) -> Path:
        for split, items in splits.items():
            write_json(tmp_path / "sent_annos" / f"{split}_annotations.json", items)
            for seed, video in enumerate(dict.fromkeys(item["vid"] for item in items)):
                write_json(tmp_path / "bbox_annos" / "0001" / f"{video}.json", vidor_file())
                write_clip(tmp_path / "videos" / "0001" / f"{video}.mp4", seed=seed)
        return tmp_path

    return build


@pytest.fixture
def own_clips(tmp_path: Path) -> Callable[..., Path]:
    """Builds a folder of own clips: a line of each of these, and a video for each of their names."""

    def build(*lines: dict[str, Any]) -> Path:
        for seed, video in enumerate(dict.fromkeys(line["video"] for line in lines)):
            write_clip(tmp_path / video, seed=seed)
        (tmp_path / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return tmp_path

    return build
