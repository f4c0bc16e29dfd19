"""A network behind its visual encoders as one program of tensors, by ``torch.export``: PyTorch alone runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stvg_nst.machine.whole_files import whole_file
from stvg_nst.models.blocks.text import TokenIds
from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.prediction.network import Network
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.types import BackboneFeatures

MOST_FRAMES = 1024


class TensorGround(nn.Module):
    """``ground`` of tensors: one clip without padding, one sentence as the tokenizer reads it.

    The visual encoders stay outside: they walk through a clip piece by piece, by loops over its length and size that a
    program cannot keep.
    """

    def __init__(self, grounder: CGSTVG) -> None:
        super().__init__()
        self.grounder = grounder

    def forward(
        self, appearance: Tensor, motion: Tensor, token_ids: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last stage's answer.

        Args:
            appearance: (1, T, C_a, h, w), of the image encoder.
            motion: (1, T, C_m, h, w), of the video encoder.
            token_ids, token_mask: (1, L) int64.

        Returns:
            Boxes (1, T, 4), cxcywh in units of the frame; confidence (1, T); start and end logits (1, T, 2);
            actioness logits (1, T).
        """
        cells = torch.ones(1, *appearance.shape[-2:], dtype=torch.bool, device=appearance.device)
        frames = torch.ones(appearance.shape[:2], dtype=torch.bool, device=appearance.device)
        features = BackboneFeatures(appearance, motion, cells)
        output = self.grounder.ground(features, frames, TokenIds(token_ids, token_mask))
        assert output.confidence is not None and output.actioness is not None
        return output.boxes[-1], output.confidence[-1], output.start_end[-1], output.actioness[-1]


@torch.no_grad()
def as_program(network: Network) -> ExportedProgram:
    """The program, whose numbers of frames, rows, columns and tokens are free.

    Raises:
        ValueError: the network is no CG-STVG, or is tuned by a method that branches by what it sees.
    """
    grounder, method = network.grounder, network.method
    if not isinstance(grounder, CGSTVG):
        raise ValueError(f"only CG-STVG becomes a program, got {type(grounder).__name__}")
    if network.tuner is not None and not isinstance(network.tuner, NullSpaceTuning):
        raise ValueError(
            f"{method} does not become a program: export it as weights first where it can be merged, such as LoRA"
        )
    device = next(grounder.parameters()).device
    appearance, motion = (
        torch.randn(1, 6, encoder.channels, 7, 8, device=device) for encoder in (grounder.visual, grounder.motion)
    )
    tokens = grounder.text.tokenize(["a man in red waves"])
    frames, words = Dim("frames", min=2, max=MOST_FRAMES), Dim("words", min=3, max=grounder.text.max_tokens)
    rows, columns = Dim.AUTO, Dim.AUTO
    maps = {1: frames, 3: rows, 4: columns}
    return torch.export.export(
        TensorGround(grounder).eval(),
        (appearance, motion, tokens.ids.to(device), tokens.mask.to(device)),
        dynamic_shapes=(maps, maps, {1: words}, {1: words}),
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
