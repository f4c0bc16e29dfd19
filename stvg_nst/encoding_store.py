"""Encodings on disk: what a frozen cross-modal encoder says of a clip and a sentence is computed once."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stvg_nst.whole_files import whole_file

# Raise it with every change of an encoder that gives other numbers for the same weights and the same clip.
FORMAT_VERSION = 1
_METADATA_KEY = "stvg_nst_encoding"
_TENSOR = "tokens"


class EncodingStoreError(RuntimeError):
    """A file of the store is damaged, or holds something else than its name says."""


class EncodingStore:
    """Tokens by what they were made from, one safetensors file each: ``<folder>/<encoder>/<content>.safetensors``.

    The names are checksums of the encoder's weights and of the clip's features and sentence, so that nothing in the
    folder is ever out of date. It grows with every new clip, sentence and encoder, and may be deleted at any time.

    Several processes may use one folder at once: a file appears complete or not at all, and where two compute the same
    encoding they compute the same numbers.

    Args:
        folder: made with the first file.
        encoder: fingerprint of all weights that the tokens depend on.
    """

    def __init__(self, folder: Path | str, encoder: str) -> None:
        self.folder = Path(folder) / encoder

    def get(self, content: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tokens of a clip and a sentence, read from the store, or computed and stored.

        Args:
            content: checksum of all that the tokens depend on besides the encoder.
            compute: makes them; a float32 tensor on any device.

        Returns:
            On the CPU where they were read, on the device of ``compute`` otherwise.

        Raises:
            EncodingStoreError: the file is there, but damaged.
        """
        path = self.folder / f"{content}.safetensors"
        if path.exists():
            return _read(path)
        tokens = compute()
        _write(path, tokens)
        return tokens


def _write(path: Path, tokens: Tensor) -> None:
    stored = tokens.detach().cpu().contiguous()
    header = json.dumps({"format_version": FORMAT_VERSION, "crc32": _checksum(stored)}, sort_keys=True)
    with whole_file(path) as partial:
        save_file({_TENSOR: stored}, partial, metadata={_METADATA_KEY: header})


def _read(path: Path) -> Tensor:
    remedy = "delete it, and it is computed again"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_METADATA_KEY])
            tokens: Tensor = file.get_tensor(_TENSOR)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise EncodingStoreError(f"{path} holds no readable encoding ({error!r}); {remedy}") from error
    expected = {"format_version": FORMAT_VERSION, "crc32": _checksum(tokens)}
    if header != expected:
        raise EncodingStoreError(
            f"{path} is damaged or of another version: expected {expected}, got {header}; {remedy}"
        )
    return tokens


def _checksum(tokens: Tensor) -> int:
    """Safetensors notices a file cut short, but not a flipped bit."""
    return zlib.crc32(tokens.numpy().data)
