"""A network at work on one window: encoded once, for all sentences, with an adapter or without."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import stvg_nst.tuning  # noqa: F401 (makes its methods known to tuner_of)
from stvg_nst.inference import InferenceProtocol, join_passes, pass_frames
from stvg_nst.models.base import Grounder
from stvg_nst.prediction.windows import Finding
from stvg_nst.tubes import ShownClip
from stvg_nst.tuning.adapter import load_adapter, read_adapter_config
from stvg_nst.tuning.base import Tuner
from stvg_nst.tuning.nst.router import SharedRouter
from stvg_nst.types import BackboneFeatures, GroundingOutput, Tube

# Sentences that the network is asked at once: more of them need memory for as many copies of a window's tokens.
SENTENCES_AT_ONCE = 8
_CHOOSES_ALL = {"strategy": "all", "exclude": []}


@dataclass(frozen=True, slots=True)
class EncodedPass:
    """What the visual backbones say of one pass: features with B = 1, and a mask (1, T), True on real frames."""

    features: BackboneFeatures
    frame_mask: Tensor


@dataclass(frozen=True, slots=True)
class Network:
    """A frozen grounder, or one under an adapter.

    Args:
        grounder: on its device, in eval mode.
        tuner: of the adapter, ``None`` for the frozen grounder.
        inference: in how many passes it is shown a window.
        dtype: of its products; float32, or half precision under autocast.
    """

    grounder: Grounder
    tuner: Tuner | None
    inference: InferenceProtocol
    dtype: torch.dtype

    @property
    def method(self) -> str:
        """The name of its tuner, as results have it."""
        return "ZeroShot" if self.tuner is None else type(self.tuner).__name__

    @property
    def degraded_above(self) -> float:
        """The quality from which on a hard gate opens: one half, or what it was calibrated to."""
        routers = [module for module in self.grounder.modules() if isinstance(module, SharedRouter)]
        return routers[0].threshold.sigmoid().item() if routers else 0.5

    def adapted(self, adapter: Path) -> Network:
        """The same frozen weights, which stay in memory once, under an adapter.

        Raises:
            AdapterMismatchError: the file is no adapter, or one of other weights.
            ValueError: its method is none of this suite's, or needs to be told the quality of a clip.
            OSError: it cannot be read.
        """
        return self.under(tuner_of(adapter), adapter)

    def under(self, tuner: Tuner, adapter: Path) -> Network:
        """As :meth:`adapted`, by a tuner that is made already and fits the adapter."""
        twin = shared_copy(self.grounder)
        tuner.inject(twin)
        _unshare_trained(twin, self.grounder)
        load_adapter(adapter, twin, tuner)
        tuner.warn_of_uncalibrated_gate(twin)
        twin.requires_grad_(False)
        return Network(twin, tuner, self.inference, self.dtype)

    def shares_backbones(self, other: Network) -> bool:
        """Whether the two encode alike, so that one may take what the other has encoded."""
        ours, theirs = ([*map(id, _tensors(network.grounder.backbones()))] for network in (self, other))
        return ours == theirs

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> list[EncodedPass]:
        """What the backbones say of a window (T, 3, H, W), pass by pass."""
        device = next(self.grounder.parameters()).device
        height, width = frames.shape[-2:]
        encoded = []
        with self._precision(device):
            for seen in pass_frames(len(frames), self.inference):
                shown = frames[None, seen].to(device)
                mask = torch.ones(shown.shape[:2], dtype=torch.bool, device=device)
                encoded.append(EncodedPass(self.grounder.encode(shown, mask, [(height, width)]), mask))
        return encoded

    @torch.inference_mode()
    def find(
        self, encoded: Sequence[EncodedPass], frame_ids: tuple[int, ...], size: tuple[int, int], queries: Sequence[str]
    ) -> list[Finding]:
        """What each sentence's tube is in an encoded window.

        Args:
            encoded: by this network, or by one that shares its backbones.
            frame_ids: T native frames that the window was sampled at.
            size: (H, W) of the film.

        Raises:
            ValueError: the network's answer is not finite.
        """
        found: list[Finding] = []
        for first in range(0, len(queries), SENTENCES_AT_ONCE):
            found += self._find(encoded, frame_ids, size, queries[first : first + SENTENCES_AT_ONCE])
        return found

    def _find(
        self, encoded: Sequence[EncodedPass], frame_ids: tuple[int, ...], size: tuple[int, int], queries: Sequence[str]
    ) -> list[Finding]:
        outputs, qualities = [], []
        for part in encoded:
            with self._precision(part.frame_mask.device):
                mask = part.frame_mask.expand(len(queries), -1)
                outputs.append(self.grounder.ground(_repeated(part.features, len(queries)), mask, queries))
            qualities.append(self._qualities(len(queries)))
        clips = [ShownClip(query, frame_ids, size) for query in queries]
        tubes = join_passes(outputs, clips, self.inference)
        confidences = tube_confidences(outputs, frame_ids, tubes, self.inference)
        means = [None if None in each else sum(each) / len(each) for each in zip(*qualities, strict=True)]
        return [Finding(frame_ids, *each) for each in zip(tubes, confidences, means, strict=True)]

    def _qualities(self, count: int) -> list[float | None]:
        """What the router says of each sentence's window in the last forward."""
        verdicts = None if self.tuner is None else self.tuner.verdicts()
        return [None] * count if verdicts is None else verdicts.tolist()

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(device.type, self.dtype)


def tube_confidences(
    outputs: Sequence[GroundingOutput], frame_ids: tuple[int, ...], tubes: Sequence[Tube], inference: InferenceProtocol
) -> list[float]:
    """How sure the network is of each tube, in [0, 1]: the mean over the sampled frames that it covers.

    A frame counts by the probability that the network gives to its lying inside the tube (actioness), times half of
    the confidence that it has in its box. Both are said frame by frame, so that windows compare with each other; the
    probabilities of start and end add up to one in every window, whether or not the sentence is about it.

    Of a network that says neither, the probabilities of start and end are all there is: it is as sure as the geometric
    mean of the two at the ends of the tube.

    Args:
        outputs: of each pass, for B sentences.
        frame_ids: T sampled frames of the window.
        tubes: B.
    """
    ids, passes = torch.tensor(frame_ids), pass_frames(len(frame_ids), inference)
    if all(output.actioness is None and output.confidence is None for output in outputs):
        ends = torch.zeros(len(tubes), len(frame_ids), 2)
        for seen, output in zip(passes, outputs, strict=True):
            ends[:, seen] = output.start_end[-1].float().softmax(dim=1).cpu()
        return [
            (ends[row, ids == tube.start, 0] * ends[row, ids == tube.stop - 1, 1]).sqrt().item()
            for row, tube in enumerate(tubes)
        ]
    sure = torch.ones(len(tubes), len(frame_ids))
    for seen, output in zip(passes, outputs, strict=True):
        if output.actioness is not None:
            sure[:, seen] *= output.actioness[-1].float().sigmoid().cpu()
        if output.confidence is not None:
            sure[:, seen] *= output.confidence[-1].float().cpu() / 2
    return [sure[row, (tube.start <= ids) & (ids < tube.stop)].mean().item() for row, tube in enumerate(tubes)]


class TunerOptions(Protocol):
    """A tuner's class, by module and name, and its options."""

    @property
    def tuner(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """Those that an adapter was made with, as far as they matter to its answers."""

    tuner: str
    options: dict[str, Any]

    @classmethod
    def of(cls, adapter: Path) -> AdapterOptions:
        """
        Raises:
            AdapterMismatchError: the file is no adapter.
        """
        saved = read_adapter_config(adapter)
        options = dict(saved.fields)
        kind = _kind_of(saved.tuner)
        if saved.fingerprints and "targets" in options and kind is not None and "targets" in kind.free_fields:
            options["targets"] = [*saved.fingerprints]  # the very layers, whatever pattern or draw has chosen them
            options |= {name: value for name, value in _CHOOSES_ALL.items() if name in options}
        if "spaces" in options:
            options["spaces"] = None  # a folder of the machine that trained it
        return cls(saved.tuner, options)


def tuner_of(adapter: Path) -> Tuner:
    """The method that made an adapter, with the options that it was made with.

    Raises:
        AdapterMismatchError: the file is no adapter.
        ValueError: its method is none of this suite's, or needs to be told the quality of a clip.
    """
    return make_tuner(AdapterOptions.of(adapter), str(adapter))


def make_tuner(wanted: TunerOptions, source: str) -> Tuner:
    """A tuner of a class that is there already, and never of a module that a file asks to be imported.

    Args:
        source: what asks for it, as errors name it.

    Raises:
        ValueError: there is no such class, or its gate needs to be told the quality of a clip.
    """
    kind = _kind_of(wanted.tuner)
    if kind is None:
        raise ValueError(
            f"'{source}' was made by {wanted.tuner}, which is no method of stvg_nst.tuning; import its module first"
        )
    if wanted.options.get("gate") == "oracle":
        raise ValueError(f"the gate of '{source}' is the true quality of a clip, which nobody says of your own video")
    return kind(**wanted.options)


def _kind_of(tuner: str) -> type[Tuner] | None:
    """A tuner's class by its module and name, if it is loaded."""
    module, _, name = tuner.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Tuner) else None


def shared_copy(grounder: Grounder) -> Grounder:
    """Modules of its own around the same tensors."""
    memo = {id(tensor): tensor for tensor in _tensors((grounder,))}
    return copy.deepcopy(grounder, memo)


def _tensors(modules: Sequence[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _unshare_trained(twin: Grounder, frozen: Grounder) -> None:
    """Gives the copy its own of those frozen parameters that its tuner trains in place."""
    shared = {id(parameter) for parameter in frozen.parameters()}
    own: dict[int, nn.Parameter] = {}
    for module in twin.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) in shared:
                own.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                setattr(module, name, own[id(parameter)])
    frozen.requires_grad_(False)


def _repeated(features: BackboneFeatures, count: int) -> BackboneFeatures:
    return features.changed(lambda tensor: tensor.expand(count, *tensor.shape[1:]))
