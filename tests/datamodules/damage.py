"""Video files as broken transfers and other programs leave them."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """One of some files with a piece cut off, overwritten, flipped, doubled or taken from another of them."""
    data, other = (bytearray(draw(st.sampled_from(wholes))) for _ in range(2))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 200))
        match draw(st.sampled_from(("cut", "flip", "zeros", "noise", "double", "graft"))):
            case "cut":
                del data[place:]
            case "flip":
                data[place : place + 1] = bytes(byte ^ (1 << length % 8) for byte in data[place : place + 1])
            case "zeros":
                data[place : place + length] = bytes(length)
            case "noise":
                data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
            case "double":
                data[place:place] = data[place : place + length]
            case "graft":
                data[place:] = other[place:]
    return bytes(data)
