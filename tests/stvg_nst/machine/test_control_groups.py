from __future__ import annotations

import os
from pathlib import Path

import pytest

from stvg_nst.machine import control_groups
from stvg_nst.machine.control_groups import core_limit, memory_limit
from stvg_nst.machine.cores import granted_cores, limit_threads
from stvg_nst.machine.health import examine_machine

UNIFIED = "0::/slurm/job_7/step_0\n"
DIVIDED = "5:memory:/slurm/job_7/step_0\n3:cpu,cpuacct:/slurm/job_7/step_0\n1:name=systemd:/\n0::/\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the system's: files are written into ``mount``, and ``membership`` names the groups."""
    monkeypatch.setattr(control_groups, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(system: Path, membership: str, **files: str) -> None:
    (system / "membership").write_text(membership)
    for name, text in files.items():
        path = system / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("membership", "files", "cores", "memory"),
    [
        pytest.param(UNIFIED, {"slurm/job_7/memory.max": "4000", "slurm/job_7/cpu.max": "250000 100000"}, 3, 4000),
        pytest.param(UNIFIED, {"memory.max": "9000", "slurm/job_7/step_0/memory.max": "4000"}, None, 4000),
        pytest.param(UNIFIED, {"memory.max": "4000", "cpu.max": "50000 100000"}, 1, 4000, id="a container's own root"),
        pytest.param(UNIFIED, {"slurm/job_7/memory.max": "max", "slurm/job_7/cpu.max": "max 100000"}, None, None),
        pytest.param(
            DIVIDED,
            {
                "memory/slurm/memory.limit_in_bytes": "4000",
                "cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000",
            },
            2,
            4000,
        ),
        pytest.param(
            DIVIDED, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None, id="no quota"
        ),
        pytest.param("0::/größer\n", {"größer/memory.max": "4000"}, None, 4000, id="a name that is not ASCII"),
        pytest.param("", {}, None, None),
    ],
)
def test_the_tightest_limit_counts(
    system: Path, membership: str, files: dict[str, str], cores: int | None, memory: int | None
) -> None:
    write(system, membership, **files)
    assert (core_limit(), memory_limit()) == (cores, memory)


def test_a_system_without_control_groups_has_no_limit(system: Path) -> None:
    assert (core_limit(), memory_limit()) == (None, None)


def test_no_more_cores_are_used_than_the_job_has_time_for(system: Path) -> None:
    write(system, UNIFIED, **{"slurm/cpu.max": "100000 100000", "slurm/memory.max": "1000000000"})
    assert granted_cores() == 1
    said = {finding.about: finding.said for finding in examine_machine(system)}
    assert said["memory"].startswith("1.0 GB, the limit of this job")


def test_a_limit_above_what_there_is_changes_nothing(system: Path) -> None:
    write(system, UNIFIED)
    there = granted_cores()
    write(system, UNIFIED, **{"slurm/cpu.max": "100000000 100000"})
    assert granted_cores() == there


@pytest.mark.parametrize(
    ("files", "by_hand", "threads"),
    [
        ({"cpu.max": "100000 100000"}, None, "1"),
        ({"cpu.max": "100000 100000"}, "5", "5"),
        ({}, None, None),
    ],
)
def test_pytorch_starts_as_many_threads_as_there_is_time_for(
    system: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], by_hand: str | None, threads: str | None
) -> None:
    # Set first, so that the variable is put back as it was.
    monkeypatch.setenv("OMP_NUM_THREADS", by_hand or "")
    if by_hand is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    write(system, UNIFIED, **files)
    limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads
