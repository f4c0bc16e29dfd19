"""A network behind its visual encoders as one program of tensors, by ``torch.export``: PyTorch alone runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stvg_nst.machine.whole_files import whole_file
from stvg_nst.models.blocks.text import TokenIds
from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.models.tubedetr import TubeDETR
from stvg_nst.models.tubedetr.model import MOST_FRAMES as MOST_OF_TUBEDETR
from stvg_nst.prediction.network import Network
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.types import BackboneFeatures

MOST_FRAMES = 1024


class TensorGround(nn.Module):
    """``ground`` of tensors: one clip without padding, one sentence as the tokenizer reads it.

    The visual encoders stay outside: they walk through a clip piece by piece, by loops over its length and size that a
    program cannot keep.
    """

    def __init__(self, grounder: CGSTVG | TubeDETR) -> None:
        super().__init__()
        self.grounder = grounder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The last stage's answer.

        Args:
            tensors: maps (1, T, C_a, h, w) of the image encoder; where the network has a video encoder, its maps
                (1, T, C_m, h, w); token ids, and their mask, (1, L) int64.

        Returns:
            Boxes (1, T, 4), cxcywh in units of the frame, and start and end logits (1, T, 2). Of CG-STVG confidence
            (1, T) between the two, and actioness logits (1, T) behind them.
        """
        *maps, token_ids, token_mask = tensors
        appearance = maps[0]
        cells = torch.ones(1, *appearance.shape[-2:], dtype=torch.bool, device=appearance.device)
        frames = torch.ones(appearance.shape[:2], dtype=torch.bool, device=appearance.device)
        features = BackboneFeatures.of(*maps, cell_mask=cells)
        output = self.grounder.ground(features, frames, TokenIds(token_ids, token_mask))
        return tuple(value[-1] for value in output.answers.values())


@torch.no_grad()
def as_program(network: Network) -> ExportedProgram:
    """The program, whose numbers of frames, rows, columns and tokens are free.

    Raises:
        ValueError: the network is none of this suite's, or is tuned by a method that branches by what it sees.
    """
    grounder, method = network.grounder, network.method
    if not isinstance(grounder, CGSTVG | TubeDETR):
        raise ValueError(f"CG-STVG and TubeDETR become programs, and no {type(grounder).__name__}")
    if network.tuner is not None and not isinstance(network.tuner, NullSpaceTuning):
        raise ValueError(
            f"{method} does not become a program: export it as weights first where it can be merged, such as LoRA"
        )
    device = next(grounder.parameters()).device
    maps = [torch.randn(1, 6, channels, 7, 8, device=device) for channels in grounder.feature_channels]
    tokens = grounder.text.tokenize(["a man in red waves"])
    # Sizes of 1 are always constants of a program: a TubeDETR needs two slow frames.
    least, most = (grounder.stride + 1, MOST_OF_TUBEDETR) if isinstance(grounder, TubeDETR) else (2, MOST_FRAMES)
    frames, words = Dim("frames", min=least, max=most), Dim("words", min=3, max=grounder.text.max_tokens)
    free = {1: frames, 3: Dim.AUTO, 4: Dim.AUTO}
    return torch.export.export(
        TensorGround(grounder).eval(),
        (*maps, tokens.ids.to(device), tokens.mask.to(device)),
        dynamic_shapes=((*[free] * len(maps), {1: words}, {1: words}),),
        # That slow frames are fewer than all is true of every length, and more than the exporter can prove.
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def save_program(path: Path, program: ExportedProgram) -> None:
    """Writes a program for ``torch.export.load``, whole or not at all.

    Raises:
        ValueError: the file is not named .pt2.
        OSError: it cannot be written.
    """
    if path.suffix != ".pt2":
        raise ValueError(f"a program is saved as .pt2 and must be named so, got '{path}'")
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.export.save(program, file)
