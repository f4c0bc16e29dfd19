from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks import provenance
from callbacks.provenance import LIBRARIES, config_hash, software_versions


def install(monkeypatch: pytest.MonkeyPatch, *distributions: str) -> None:
    """Lets these be all that is installed."""

    def version(name: str) -> str:
        if name not in distributions:
            raise importlib.metadata.PackageNotFoundError(name)
        return f"1.0 of {name}"

    monkeypatch.setattr(provenance, "version", version)


@pytest.mark.parametrize(
    "distribution",
    ["opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless", "av"],
)
def test_a_library_may_come_from_several_distributions(monkeypatch: pytest.MonkeyPatch, distribution: str) -> None:
    install(monkeypatch, distribution)
    assert software_versions()[distribution] == f"1.0 of {distribution}"


def test_all_distributions_that_share_a_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "opencv-python", "opencv-python-headless")
    assert {"opencv-python", "opencv-python-headless"} <= software_versions().keys()


def test_a_library_without_a_distribution_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.99"))
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace())
    versions = software_versions()
    assert versions["cv2"] == "4.99, without the metadata of a distribution"
    assert versions["av"] == "version unknown, without the metadata of a distribution"
    assert versions.keys() == {"python", "stvg_nst", *LIBRARIES}


def test_configuration_hash(tmp_path: Path) -> None:
    assert config_hash(tmp_path) is None
    (tmp_path / "test.yaml").write_text("b: 2\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"b: 2\n").hexdigest()
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"a: 1\nb: 2\n").hexdigest()
