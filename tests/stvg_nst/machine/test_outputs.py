from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stvg_nst.machine.outputs import OutputError, check_folder_is_writable, check_outputs

REPOSITORY = Path(__file__).resolve().parents[3]


def test_what_can_be_written_passes_and_leaves_no_trace(tmp_path: Path) -> None:
    check_outputs({"--json": tmp_path / "new" / "a.json", "--markdown": None}, inputs=[tmp_path / "absent", None])
    (tmp_path / "old.json").touch()
    check_outputs({"--json": tmp_path / "old.json"})
    check_outputs({"--json": Path(os.devnull), "--markdown": Path(os.devnull)})
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize("way", ["same", "link", "hard link", "relative", "through a linked folder", "dangling"])
def test_an_input_is_not_replaced_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    truth, output = tmp_path / "truth.json", tmp_path / "out.json"
    truth.write_text("{}")
    monkeypatch.chdir(tmp_path)
    if way == "same":
        output = truth
    elif way == "link":
        output.symlink_to(truth)
    elif way == "hard link":
        output.hardlink_to(truth)
    elif way == "relative":
        output = Path("folder/../truth.json")
        Path("folder").mkdir()
    elif way == "through a linked folder":
        (tmp_path / "other").symlink_to(tmp_path)
        output = tmp_path / "other" / "truth.json"
    else:
        truth.unlink()
        output.symlink_to(truth)
    with pytest.raises(OutputError, match=r"^--json '.*' is an input of this command \('.*truth\.json'\)"):
        check_outputs({"--json": output}, inputs=[truth])


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match="--json and --markdown are the same file"):
        check_outputs({"--json": tmp_path / "a", "--markdown": tmp_path / "link"})


def test_a_folder_and_a_file_in_the_way_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^--json '{tmp_path}' is a folder"):
        check_outputs({"--json": tmp_path})
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_outputs({"--json": tmp_path / "file" / "deep" / "a.json"})
    assert caught.value.filename.startswith(str(tmp_path / "file"))


def test_a_file_that_stands_is_replaced_only_where_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    with pytest.raises(FileExistsError, match=f"'{path}' exists already; choose another name, or give --overwrite"):
        check_outputs({"--json": path}, replace=False)


@pytest.fixture
def common_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's are their owner's alone."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_permissions_count_for_those_who_are_not_root(common_folder: Path) -> None:
    for path, mode in ((common_folder / "closed", 0o755), (common_folder / "open", 0o777)):
        path.mkdir()
        path.chmod(mode)
    protected = common_folder / "open" / "protected.json"
    protected.touch()
    protected.chmod(0o444)
    program = f"""
import os, sys
from pathlib import Path
from stvg_nst.machine.outputs import check_outputs
os.chdir("/"); os.setuid(65534)
for name in ("closed/new/a.json", "open/protected.json", "open/a.json"):
    try:
        check_outputs({{"--json": Path({str(common_folder)!r}, name)}})
        print("fine")
    except PermissionError as error:
        print(error.strerror, error.filename)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert ran.stdout.splitlines() == [
        f"no file can be made there (Permission denied) {common_folder}/closed",
        f"exists, but may not be written {protected}",
        "fine",
    ]


def test_a_file_system_that_cannot_be_written_is_found_by_trying() -> None:
    with pytest.raises(OSError, match="no file can be made there"):
        check_folder_is_writable(Path("/proc/sys/absent"))
