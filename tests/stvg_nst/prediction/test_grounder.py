"""Anyone's video is answered as `test` answers a clip: same pixels, same sentence, same weights, same tube."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch

from datamodules import MiniSTVG, VidSTG
from datamodules.clips import collate
from datamodules.degradation.severities import degrade
from datamodules.footage import open_footage
from datamodules.quality import Draw
from datamodules.sampling import FramesByClock
from datamodules.video import VideoDecodeError, read_frames
from stvg_nst.inference import InferenceProtocol, join_passes, split_passes
from stvg_nst.models.description import Viewing
from stvg_nst.module import GroundingModule
from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.prediction import viewing as viewing_module
from stvg_nst.prediction.network import tuner_of
from stvg_nst.prediction.viewing import show, viewing_of
from stvg_nst.prediction.windows import Window
from stvg_nst.tuning import AdapterMismatchError, FullFineTuning, LoRA, ZeroShot, save_adapter
from stvg_nst.types import Tube
from tests.datamodules.published import vidor_file, vidstg_item, write_clip, write_json
from tests.stvg_nst.prediction.adapters import SENTENCE, save_random_adapter


def in_passes(grounder: VideoGrounder, inference: InferenceProtocol) -> VideoGrounder:
    adapters = {name: replace(network, inference=inference) for name, network in grounder.adapters.items()}
    return replace(grounder, frozen=replace(grounder.frozen, inference=inference), adapters=adapters)


def tube_of_test(clips: MiniSTVG, draw: Draw, adapter: Path | None, inference: InferenceProtocol) -> Tube:
    """The tube that the command `test` gives."""
    grounder = load("mini", device="cpu").frozen.grounder
    tuner = ZeroShot() if adapter is None else tuner_of(adapter)
    module = GroundingModule(grounder, tuner, weights="random", adapter=adapter, inference=inference).eval()
    clip = clips.evaluation_loader("test").dataset[draw]
    passes = split_passes(collate([clip]), inference)
    with torch.no_grad():
        (tube,) = join_passes([module(part) for part in passes], [clip.info], inference)
    return tube


@pytest.mark.parametrize("inference", ["single_pass", "two_pass"])
@pytest.mark.parametrize("degraded", [False, True])
def test_the_tube_is_that_of_a_test(
    mini: VideoGrounder, clips: MiniSTVG, adapter: Path, inference: InferenceProtocol, degraded: bool
) -> None:
    record = clips.records["test"][1]
    degradation = clips.plan.evaluation_degradation(record.clip_id) if degraded else None
    pixels = read_frames(record.video, range(record.num_frames))
    video = record.video if degradation is None else degrade(pixels, degradation)
    tuned = in_passes(mini.with_adapter("night", adapter), inference)
    answer = tuned.ground(video, record.query, fps=record.fps)
    for found, file in ((answer, adapter), (answer.frozen, None)):
        assert found is not None
        expected = tube_of_test(clips, Draw(1, degradation), file, inference)
        assert (found.tube.start, found.tube.stop) == (expected.start, expected.stop)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-5, atol=1e-5 * 128)
    assert answer.frozen is not None and not torch.equal(answer.boxes[:1], answer.frozen.boxes[:1])


def test_an_answer_says_when_where_and_how_sure(mini: VideoGrounder, clip: Path, adapter: Path) -> None:
    answer = mini.ground(clip, SENTENCE)
    assert answer.quality is None and answer.frozen is None and answer.model == "mini, frozen"
    assert answer.seconds == (answer.tube.start / 8, answer.tube.stop / 8)
    assert answer.boxes.shape == (len(answer.tube), 4) and 0 <= answer.confidence <= 1
    assert answer.boxes.min() >= 0 and answer.boxes.max() <= 128
    tuned = mini.with_adapter("night", adapter).ground(clip, SENTENCE)
    assert tuned.quality is not None and 0 < tuned.quality < 1
    assert tuned.model == "mini, adapter 'night' (NullSpaceTuning)" and tuned.method == "NullSpaceTuning"
    assert mini.with_adapter("night", adapter).ground(clip, SENTENCE, compare=False).frozen is None


def test_every_kind_of_router_tells_the_quality(mini: VideoGrounder, clip: Path, tmp_path: Path) -> None:
    adapter = save_random_adapter(tmp_path / "a.safetensors", router="layer", gate="hard")
    answer = mini.with_adapter("layers", adapter).ground(clip, SENTENCE)
    assert answer.quality is not None and 0 < answer.quality < 1


def test_a_path_an_open_file_and_an_array_are_answered_alike(mini: VideoGrounder, clip: Path) -> None:
    expected = mini.ground(clip, SENTENCE)
    array = read_frames(clip, range(32))
    for video, fps in (
        (str(clip), None),
        (io.BytesIO(clip.read_bytes()), None),
        (array, 8.0),
        (open_footage(clip), None),
    ):
        answer = mini.ground(video, SENTENCE, fps=fps)
        assert torch.equal(answer.boxes, expected.boxes) and answer.seconds == expected.seconds


def test_many_sentences_are_answered_as_each_alone(
    mini: VideoGrounder, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = mini.frozen.grounder.encode
    monkeypatch.setattr(mini.frozen.grounder, "encode", lambda *a: encoded.append(1) or encode(*a))
    sentences = [f"the {size} red star spins slowly and {more}" for size in ("big", "small") for more in "abcde"]
    together = mini.ground_all(clip, sentences)
    assert len(encoded) == 1, "decoded and encoded once"
    for sentence, answer in zip(sentences, together, strict=True):
        alone = mini.ground(clip, sentence)
        assert answer.sentence == sentence and answer.seconds == alone.seconds
        torch.testing.assert_close(answer.boxes, alone.boxes, rtol=1e-5, atol=1e-3)


def test_a_part_of_a_film_is_answered_as_if_it_were_alone(mini: VideoGrounder, clip: Path) -> None:
    film = np.concatenate(
        [np.full((16, 128, 128, 3), 90, np.uint8), read_frames(clip, range(32)), np.zeros((24, 128, 128, 3), np.uint8)]
    )
    alone, part = mini.ground(clip, SENTENCE), mini.ground(film, SENTENCE, fps=8, start=2.0, stop=6.0)
    assert part.segment == (16, 48)
    assert (part.tube.start, part.tube.stop) == (16 + alone.tube.start, 16 + alone.tube.stop)
    assert torch.equal(part.boxes, alone.boxes)
    assert part.seconds == (2 + alone.seconds[0], 2 + alone.seconds[1])


@pytest.mark.parametrize("way", ["cgstvg", "tubedetr"])
def test_a_segment_of_vidstg_is_a_part_of_its_film(mini: VideoGrounder, tmp_path: Path, way: str) -> None:
    """An annotated segment, in frames, is found again from its seconds, and answered as `test` answers it."""
    write_json(tmp_path / "sent_annos" / "test_annotations.json", [vidstg_item()])
    write_json(tmp_path / "bbox_annos" / "0001" / "1001.json", vidor_file())
    write_clip(tmp_path / "videos" / "0001" / "1001.mp4")
    options: dict[str, Any] = {"eval_num_frames": 6}
    if way == "tubedetr":
        options = {"sampling": FramesByClock(4.0, at_most=5), "resizing": "short_side"}
    data = VidSTG(tmp_path, expect_official_counts=False, num_workers=0, resolution=64, **options)
    record = data.load_records("test")[0]
    grounder = replace(mini, viewing=viewing_of(data, "single_pass"))
    start, stop = (frame / record.fps for frame in record.segment)
    answer = grounder.ground(record.video, record.query, start=start, stop=stop)
    assert answer.segment == record.segment == (2, 17)
    module = GroundingModule(load("mini", device="cpu").frozen.grounder, ZeroShot(), weights="random").eval()
    clip = data.evaluation_loader("test").dataset[Draw(0, None)]
    with torch.no_grad():
        (expected,) = join_passes([module(collate([clip]))], [clip.info], "single_pass")
    assert (answer.tube.start, answer.tube.stop) == (expected.start, expected.stop)
    torch.testing.assert_close(answer.boxes, expected.boxes, rtol=1e-5, atol=1e-5 * 64)


def test_the_answer_is_found_in_a_long_film(mini: VideoGrounder, clips: MiniSTVG) -> None:
    """The two clips of the test split between clips of noise: each sentence leads to its own clip."""
    records = clips.records["test"][0], clips.records["test"][2]
    assert records[0].clip_id != records[1].clip_id
    noise = np.random.default_rng(0).integers(90, 110, (32, 128, 128, 3), dtype=np.uint8)
    shown = [noise, read_frames(records[0].video, range(32)), noise, noise, read_frames(records[1].video, range(32))]
    told: list[tuple[int, int]] = []
    queries = [record.query for record in records]
    answers = mini.ground_all(np.concatenate(shown), queries, fps=8, progress=lambda *counts: told.append(counts))
    assert told == [(done, 9) for done in range(1, 10)]
    for record, answer, place in zip(records, answers, (1, 4), strict=True):
        start, stop = record.target.start + 32 * place, record.target.stop + 32 * place
        shared = min(stop, answer.tube.stop) - max(start, answer.tube.start)
        assert shared > 0.4 * (stop - start), record.query


def test_frames_of_two_windows_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frame:
        """In the place of what the network takes of a frame."""

    living: WeakSet[Frame] = WeakSet()
    most = 0

    def one_frame(picture: np.ndarray, bring: object) -> list[Frame]:
        living.add(frame := Frame())
        return [frame]

    def stack(frames: list[Frame]) -> int:
        nonlocal most
        most = max(most, len(living))
        return len(frames)

    monkeypatch.setattr(viewing_module, "to_network", one_frame)
    monkeypatch.setattr(viewing_module.torch, "stack", stack)
    frames = np.broadcast_to(np.uint8(0), (400, 16, 16, 3))
    windows = [Window((begin, begin + 32), 8.0) for begin in range(0, 369, 16)]
    shown = show(open_footage(frames, fps=8), windows, Viewing(None, 8.0, None, False, "single_pass", 4.0))
    assert [size for _, size in shown] == [32] * len(windows)
    assert most <= 2 * 32


def test_threads_get_the_answers_that_one_would(mini: VideoGrounder, clip: Path, adapter: Path) -> None:
    tuned = mini.with_adapter("night", adapter)
    asked = [
        (grounder, sentence) for grounder in (mini, tuned) for sentence in (SENTENCE, "a small green heart", "who?")
    ]
    expected = [grounder.ground(clip, sentence) for grounder, sentence in asked]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda each: each[0].ground(clip, each[1]), asked * 2)]
    for answer, own in zip(found, expected * 2, strict=True):
        assert torch.equal(answer.boxes, own.boxes) and answer.quality == own.quality


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_share_the_frozen_weights_and_are_switched_by_name(
    mini: VideoGrounder, clip: Path, adapter: Path, tmp_path: Path
) -> None:
    other = load("mini", device="cpu").frozen.grounder
    lora = LoRA(targets=["encoder.layers.*.ffn.linear1"], rank=4)
    lora.inject(other)
    for parameter in lora.trainable_parameters(other):
        torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(tmp_path / "rain.safetensors", other, lora)

    before = mini.ground(clip, SENTENCE)
    both = mini.with_adapter("night", adapter).with_adapter("rain", tmp_path / "rain.safetensors")
    assert both.adapter == "rain" and [*both.adapters] == ["night", "rain"]
    frozen = {tensor.data_ptr() for tensor in mini.frozen.grounder.parameters()}
    for network in both.adapters.values():
        shared = {tensor.data_ptr() for tensor in network.grounder.parameters()}
        assert frozen <= shared, "the weights stand in memory once"
    answers = {name: both.using(name).ground(clip, SENTENCE) for name in (None, "night", "rain", "night", None)}
    assert torch.equal(answers[None].boxes, before.boxes) and answers[None].frozen is None
    assert len({answer.confidence for answer in answers.values()}) == 3
    for name in ("night", "rain"):
        own = answers[name]
        assert own.frozen is not None and torch.equal(own.frozen.boxes, before.boxes)
    with pytest.raises(ValueError, match="there is no adapter 'fog'; loaded are 'night', 'rain'"):
        both.using("fog")


def test_full_fine_tuning_leaves_the_frozen_weights_alone(mini: VideoGrounder, clip: Path, tmp_path: Path) -> None:
    other, tuner = load("mini", device="cpu").frozen.grounder, FullFineTuning(scope=["visual", "*_head"])
    tuner.inject(other)
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    save_adapter(tmp_path / "full.safetensors", other, tuner)
    before = mini.ground(clip, SENTENCE)
    answer = mini.with_adapter("full", tmp_path / "full.safetensors").ground(clip, SENTENCE)
    assert answer.frozen is not None and torch.equal(answer.frozen.boxes, before.boxes)
    other.requires_grad_(False)
    directly = replace(mini, frozen=replace(mini.frozen, grounder=other)).ground(clip, SENTENCE)
    assert torch.equal(answer.boxes, directly.boxes), "backbones too are the tuned ones"
    assert not torch.equal(answer.boxes[:1], before.boxes[:1])


def test_an_open_film_has_a_rate_of_its_own(mini: VideoGrounder, clip: Path) -> None:
    with pytest.raises(ValueError, match="fps 8 belongs to open_footage"):
        mini.ground(open_footage(clip), SENTENCE, fps=8)


def test_an_adapter_of_another_model_is_refused(mini: VideoGrounder, adapter: Path, tmp_path: Path) -> None:
    changed = load("mini", device="cpu")
    changed.frozen.grounder.box_decoder.layers[0].ffn.linear2.weight.data[0, 0] += 1  # type: ignore[union-attr, index]
    with pytest.raises(AdapterMismatchError, match=r"does not fit this model.*load the weights that it was trained on"):
        changed.with_adapter("night", adapter)
    with pytest.raises(AdapterMismatchError, match="holds no adapter"):
        mini.with_adapter("weights", Path("stvg_nst/models/mini/model.safetensors"))
    with pytest.raises(FileNotFoundError, match="nothing"):
        mini.with_adapter("night", tmp_path / "nothing.safetensors")


def test_a_gate_that_is_told_the_truth_is_refused(mini: VideoGrounder, tmp_path: Path) -> None:
    oracle = save_random_adapter(tmp_path / "oracle.safetensors", gate="oracle")
    with pytest.raises(ValueError, match="the true quality of a clip, which nobody says of your own video"):
        mini.with_adapter("oracle", oracle)


# --- what a person may do wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("", "the sentence '' is a blank sentence"),
        (" ?", r"the sentence ' \?' is a blank sentence"),
        ("a red star " * 40, r"a red star a \.\.\.' is too long: at most 48 tokens"),
        ("a star\x07", "holds the control character"),
    ],
)
def test_a_sentence_that_is_none_is_refused_ahead_of_the_film(mini: VideoGrounder, sentence: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mini.ground("absent.mp4", sentence)


def test_sentences_must_be_a_list(mini: VideoGrounder) -> None:
    for sentences in ("a star", [], [None], [SENTENCE, 5]):
        with pytest.raises(ValueError, match="expected a list of sentences, at least one"):
            mini.ground_all("absent.mp4", sentences)


def test_several_sentences_are_for_the_other_method(mini: VideoGrounder) -> None:
    with pytest.raises(ValueError, match="`ground` takes one sentence, `ground_all` a list"):
        mini.ground("absent.mp4", [SENTENCE])  # type: ignore[arg-type]


def test_a_film_that_is_none_is_named(mini: VideoGrounder, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(VideoDecodeError, match=r"cannot decode 'absent\.mp4': there is no such file"):
        mini.ground("absent.mp4", SENTENCE)
    with pytest.raises(VideoDecodeError, match=r"text\.mp4': it is truncated or no video"):
        mini.ground(tmp_path / "text.mp4", SENTENCE)


def test_weights_that_have_diverged_are_told(clip: Path) -> None:
    broken = load("mini", device="cpu")
    broken.frozen.grounder.start_end_head.layers[0].weight.data.fill_(float("nan"))  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match=f"the network's answer for clip '{SENTENCE}' is not finite"):
        broken.ground(clip, SENTENCE)
