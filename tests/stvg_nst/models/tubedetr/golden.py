"""The golden files of TubeDETR that lie beside the project, in shapes of ours."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from stvg_nst.losses import GroundingLoss
from stvg_nst.models.tubedetr.official import NAMES
from stvg_nst.types import Batch, GroundingOutput

BOXES = {"atol": 2e-5, "rtol": 0.0}
CLOSE = {"atol": 1e-4, "rtol": 0.0}
TERMS = {
    "boxes": "loss_bbox",
    "giou": "loss_giou",
    "start_end": "loss_sted",
    "guided_attention": "loss_guided_attn",
}


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Golden:
    """Files, rules and names.

    Args:
        shared: the folder beside the project.
    """

    shared: Path

    @property
    def folder(self) -> Path:
        return self.shared / "tubedetr" / "golden"

    @cached_property
    def rule(self) -> ModuleType:
        return load_module(self.shared / "cgstvg" / "golden_weights.py")

    @cached_property
    def inputs(self) -> ModuleType:
        return load_module(self.shared / "tubedetr" / "golden_inputs.py")

    @cached_property
    def manifest(self) -> dict:
        return json.loads((self.shared / "tubedetr" / "state_dict_manifest.json").read_text())

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {row["key"]: tuple(row["shape"]) for row in self.manifest["keys"]}

    def load(self, name: str) -> dict[str, Tensor]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind != "U"}

    def losses(self, name: str) -> dict[str, float]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(zip(arrays["loss_names"].tolist(), arrays["loss_values"].tolist(), strict=True))

    def normal(self, seed: int | Tensor, *shape: int) -> Tensor:
        return torch.from_numpy(self.inputs.normal(int(seed), *shape))

    def weights(self, *prefixes: str) -> dict[str, Tensor]:
        """By the weights' rule, under our names, of those official tensors that begin so; all without prefixes."""
        found: dict[str, Tensor] = {}
        for key, shape in self.shapes.items():
            if NAMES.translate_name(key) is not None and (not prefixes or key.startswith(prefixes)):
                found |= NAMES.translate_tensor(key, torch.from_numpy(self.rule.make_value(key, shape)))
        return found


class Tokens:
    """A tokenizer that knows one batch of sentences, by their tokens."""

    def __init__(self, sentences: list[Tensor]) -> None:
        ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=1)
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        self._tokens = SimpleNamespace(input_ids=ids, attention_mask=mask)

    def __call__(self, queries: list[str], *, padding: str, return_tensors: str) -> SimpleNamespace:
        assert len(queries) == len(self._tokens.input_ids)
        return self._tokens


def batch_first(sequence: Tensor, clips: int) -> Tensor:
    """Tokens as the original has them, (M, B * T, D), in our order: (B, T, M, D)."""
    return sequence.unflatten(1, (clips, -1)).permute(1, 2, 0, 3)


def real_frames(durations: Tensor) -> Tensor:
    """(B, T) bool."""
    return torch.arange(int(durations.max())) < durations[:, None]


def true_batch(durations: Tensor, spans: Tensor, true_boxes: Tensor) -> Batch:
    """Clips with true boxes on their spans, whose first and last frame are given; a negative span is none."""
    mask = real_frames(durations)
    time = torch.arange(mask.shape[1])
    inside = (time >= spans[:, :1]) & (time <= spans[:, 1:])
    boxes = torch.zeros(*mask.shape, 4)
    boxes[inside] = true_boxes
    clips = (None,) * len(mask)
    return Batch(clips, None, None, mask, (), boxes, inside, torch.zeros(len(mask)))  # type: ignore[arg-type]


def official_terms(loss: GroundingLoss, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
    """The terms (S,) of a batch as the original has them, whose start and end count padding.

    They are means over all frames of the longest clip there, and their target is normalised over padding. Here a clip
    is as if alone.
    """
    terms = {name: term.mean(1) for name, term in loss(output, batch).items()}
    length = batch.frame_mask.sum(1)
    longest = batch.frame_mask.shape[1]
    time = torch.arange(longest)[:, None]
    start_end = loss(output, batch)["start_end"] * length
    for clip, inside in enumerate(batch.inside):
        at = inside.nonzero()[[0, -1], 0] if inside.any() else torch.tensor([-100, -100])
        target = torch.exp(-((time - at) ** 2) / (2 * loss.boundary_sigma**2)) + 1e-6
        start_end[:, clip] += (target.sum(0) / target[: length[clip]].sum(0)).log().sum()
    return {**terms, "start_end": start_end.sum(1) / (len(batch) * longest)}
