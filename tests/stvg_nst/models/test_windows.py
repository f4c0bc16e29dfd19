"""Window attention by fused kernels against torchvision's own blocks, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from stvg_nst.models.cgstvg import windows
from stvg_nst.models.cgstvg.windows import WindowAttention, WindowBlock

WINDOW = (4, 3, 3)


def blocks(shifted: bool) -> tuple[nn.Module, nn.Module]:
    """Torchvision's and ours, of equal weights."""
    torch.manual_seed(0)
    shift = [size // 2 if shifted else 0 for size in WINDOW]
    theirs = SwinTransformerBlock(8, 2, list(WINDOW), shift, attn_layer=ShiftedWindowAttention3d)
    ours = WindowBlock(8, 2, list(WINDOW), shift, attn_layer=ShiftedWindowAttention3d)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours.attn, WindowAttention)
    return theirs.eval(), ours.eval()


def tokens(*sizes: int) -> Tensor:
    return torch.randn(*sizes, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [(1, 4, 3, 3), (2, 8, 6, 9), (2, 9, 7, 10), (1, 1, 5, 7), (1, 3, 2, 7), (3, 6, 8, 2)],
    ids=["one window", "whole windows", "padded windows", "one frame", "cut in time and rows", "cut in columns"],
)
@pytest.mark.parametrize("at_once", [1, 200, 10**6], ids=["row by row", "some rows", "all"])
@torch.no_grad()
def test_blocks_agree_with_torchvision(
    sizes: tuple[int, ...], shifted: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(windows._PIECE, "cpu", at_once)
    theirs, ours = blocks(shifted)
    x = tokens(*sizes)
    before = x.clone()
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_gradients_agree_with_torchvision() -> None:
    gradients = []
    for block in blocks(shifted=True):
        x = tokens(2, 6, 7, 5).requires_grad_()
        block(x).square().mean().backward()
        gradients.append({"x": x.grad, **{name: parameter.grad for name, parameter in block.named_parameters()}})
    theirs, ours = gradients
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4, rtol=1e-3)
