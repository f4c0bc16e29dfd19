"""Which films can be decoded here."""

from __future__ import annotations

import av

# Those of the published data sets, of phones and of browsers.
_NEEDED = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")


def missing_decoders() -> tuple[str, ...]:
    """Formats of films that FFmpeg, as it came with PyAV, does not decode."""
    return tuple(name for name in _NEEDED if not _decodes(name))


def decoder_versions() -> str:
    """The releases of PyAV and of FFmpeg's decoders."""
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _decodes(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
