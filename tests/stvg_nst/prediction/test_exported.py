"""A tuned network as one file says what its run says; a clean clip is answered by the frozen weights alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stvg_nst.models.description import DescriptionError
from stvg_nst.models.weights import WeightsMismatchError
from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.prediction.exported import METADATA_KEY, export_tuned
from stvg_nst.prediction.loading import find_source
from stvg_nst.tensor_files import read_tensors
from tests.stvg_nst.prediction.adapters import SENTENCE, save_random_adapter

SENTENCES = (SENTENCE, "what does the small green heart do?")


def exported(mini: VideoGrounder, folder: Path, **options: object) -> tuple[Path, Path]:
    """An adapter, and the file that it and the miniature were exported to."""
    adapter = save_random_adapter(folder / "adapter.safetensors", **options)  # type: ignore[arg-type]
    export_tuned(folder / "tuned.safetensors", mini.frozen, adapter, find_source("mini").description)
    return adapter, folder / "tuned.safetensors"


@pytest.mark.parametrize("router", ["shared", "layer"])
def test_an_open_gate_says_what_the_run_says(mini: VideoGrounder, clip: Path, tmp_path: Path, router: str) -> None:
    adapter, file = exported(mini, tmp_path, threshold=-100.0, router=router, gate="hard")
    tuned = load(file, device="cpu")
    assert tuned.viewing == mini.viewing and str(tuned) == f"{file}, adapter 'exported' (NullSpaceTuning)"
    assert tuned.network.tuner is not None
    with pytest.raises(RuntimeError, match="a folded model has no adapter to save any more"):
        tuned.network.tuner.check_saveable()
    run = mini.with_adapter("run", adapter)
    pairs = zip(tuned.ground_all(clip, SENTENCES), run.ground_all(clip, SENTENCES), strict=True)
    for own, expected in pairs:
        assert own.quality == pytest.approx(expected.quality, abs=1e-5) and own.seconds == expected.seconds
        torch.testing.assert_close(own.boxes, expected.boxes, rtol=1e-5, atol=1e-3)
        assert own.frozen is not None and expected.frozen is not None
        assert torch.equal(own.frozen.boxes, expected.frozen.boxes)
        if router == "shared":
            assert not torch.equal(own.boxes[:1], own.frozen.boxes[:1])


def test_a_clip_that_the_gate_calls_clean_is_answered_by_the_frozen_weights_bit_for_bit(
    mini: VideoGrounder, clip: Path, tmp_path: Path
) -> None:
    """The run's gate was soft; its threshold was calibrated so that no clip opens it."""
    _, file = exported(mini, tmp_path, threshold=100.0, router="shared", gate="soft")
    tuned = load(file, device="cpu")
    assert "clean" in tuned.ground(clip, SENTENCE).summary()
    for own, frozen in zip(tuned.ground_all(clip, SENTENCES), mini.ground_all(clip, SENTENCES), strict=True):
        assert torch.equal(own.boxes, frozen.boxes) and own.confidence == frozen.confidence


def test_the_frozen_weights_stand_in_the_file_and_in_memory_once(mini: VideoGrounder, tmp_path: Path) -> None:
    adapter, file = exported(mini, tmp_path, router="shared")
    frozen = sum(tensor.numel() for tensor in mini.frozen.grounder.state_dict().values())
    tensors = load_file(file)
    assert (
        frozen
        < sum(tensor.numel() for tensor in tensors.values())
        < frozen + sum(tensor.numel() for tensor in load_file(adapter).values())
    )
    tuned = load(file, device="cpu")
    shared = {tensor.data_ptr() for tensor in tuned.network.grounder.parameters()}
    assert {tensor.data_ptr() for tensor in tuned.frozen.grounder.parameters()} <= shared


def test_half_precision_halves_the_file(mini: VideoGrounder, clip: Path, tmp_path: Path) -> None:
    adapter, file = exported(mini, tmp_path, threshold=-100.0, router="shared")
    half = tmp_path / "half.safetensors"
    export_tuned(half, mini.frozen, adapter, find_source("mini").description, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * file.stat().st_size
    answers = [load(path, device="cpu").ground(clip, SENTENCE) for path in (file, half)]
    assert answers[0].confidence == pytest.approx(answers[1].confidence, abs=0.05)


def test_a_file_that_was_changed_is_refused(mini: VideoGrounder, tmp_path: Path) -> None:
    _, file = exported(mini, tmp_path, router="shared")
    tensors, metadata = read_tensors(file)
    lacking = {name: tensor for name, tensor in tensors.items() if not name.endswith("row_head.inner.weight")}
    save_file(lacking, tmp_path / "lacking.safetensors", metadata=metadata)
    with pytest.raises(WeightsMismatchError, match=r"lacking\.safetensors' does not fit CGSTVG under NullSpaceTuning"):
        load(tmp_path / "lacking.safetensors")
    said = json.loads(metadata[METADATA_KEY])
    for change, error, message in (
        ({"format_version": 9}, DescriptionError, "was exported by another version; export its run again"),
        ({"more": 1}, DescriptionError, "does not say what was tuned .*; export its run again"),
        ({"tuner": "os.system"}, ValueError, r"was made by os\.system, which is no method of stvg_nst\.tuning"),
    ):
        changed = metadata | {METADATA_KEY: json.dumps(said | change)}
        save_file(tensors, tmp_path / "changed.safetensors", metadata=changed)
        with pytest.raises(error, match=message):
            load(tmp_path / "changed.safetensors")


def test_an_adapter_may_stand_beside_what_was_exported(
    mini: VideoGrounder, clip: Path, adapter: Path, tmp_path: Path
) -> None:
    _, file = exported(mini, tmp_path, threshold=100.0, router="shared")
    both = load(file, device="cpu", adapters={"night": adapter})
    assert [*both.adapters] == ["exported", "night"] and both.adapter == "night"
    expected = replace(mini).with_adapter("night", adapter).ground(clip, SENTENCE)
    assert torch.equal(both.ground(clip, SENTENCE).boxes, expected.boxes)
