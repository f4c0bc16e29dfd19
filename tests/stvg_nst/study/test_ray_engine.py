"""What is asked of Ray, by a stand-in for it; test_engines.py has the real one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stvg_nst.study.launch import Launcher
from stvg_nst.study.ray_engine import RayEngine, connected
from stvg_nst.study.runs import RunTest, StudyRun


class TaskLost(Exception):
    pass


class TaskFailed(TaskLost):
    def __init__(self) -> None:
        super().__init__("Traceback ...")
        self.cause = PermissionError("log.txt may not be written")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TaskLost("the node died\nand more"), "it was lost 4 times: the node died"),
        (TaskFailed(), "its task failed: PermissionError: log.txt may not be written"),
    ],
)
def test_a_task_that_ray_gives_up_leaves_its_reason(tmp_path: Path, error: Exception, said: str) -> None:
    def get(reference: object) -> None:
        raise error

    exceptions = SimpleNamespace(RayError=TaskLost, RayTaskError=TaskFailed)
    engine = RayEngine(SimpleNamespace(get=get, exceptions=exceptions), Launcher(1, None), cpus=1, gpus=0)
    run = StudyRun("rank 4", 0, tmp_path / "run", {}, (RunTest("", tmp_path / "run", {}, None),), None, ())
    assert engine._outcome("reference", run).failure == said
    assert run.failed and run.why_failed == f"{said} ({run.log})", "as the board and the report read it"


def test_without_an_address_no_cluster_is_joined_that_happens_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2}}]
    ray = SimpleNamespace(init=lambda **options: asked.append(options), nodes=lambda: nodes, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    for address in (None, "auto"):
        with connected(Launcher(1, None), address=address, cpus=2, gpus=0) as engine:
            assert engine.launcher.threads == 2
    assert [options["address"] for options in asked] == ["local", "auto"]
