from __future__ import annotations

import torch

from stvg_nst.models.blocks.layers import attend


def test_half_precision_is_attended_in_single_precision_on_a_cpu() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 2, 7, 8, dtype=torch.bfloat16)
    mask = torch.ones(2, 7, dtype=torch.bool)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attend(*inputs, num_heads=2, mask=mask, dropout=0.0)

    expected = attend(*inputs.float(), num_heads=2, mask=mask, dropout=0.0)
    torch.testing.assert_close(mixed, expected.bfloat16(), rtol=0, atol=0)
