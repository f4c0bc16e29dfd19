from __future__ import annotations

import pytest

from stvg_nst.results.conditions import Measurement


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (Measurement(precision="bf16-mixed"), False),
        (Measurement(float32_products="tf32"), False),
        (Measurement(inference="two_pass"), False),
        (Measurement(float32_convolutions="tf32"), True),
        (Measurement(compiled=True), True),
        (Measurement(device="cuda"), True),
    ],
)
def test_what_changes_more_than_last_digits_does_not_compare(other: Measurement, alike: bool) -> None:
    usual = Measurement()
    assert usual.compares_with(other) is other.compares_with(usual) is alike
    assert (usual.last_digits != other.last_digits) is alike, "what compares differs in the note alone"


def test_it_is_named_in_words() -> None:
    assert str(Measurement("bf16-mixed", "tf32", "two_pass")) == "bf16-mixed with products in tf32, two_pass"
    assert Measurement(float32_convolutions="tf32", compiled=True, device="cuda").last_digits == (
        "cuda, convolutions in tf32, compiled"
    )
