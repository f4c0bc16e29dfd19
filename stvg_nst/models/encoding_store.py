"""Encodings that are kept: what a frozen cross-modal encoder says of a clip and a sentence is computed once."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from stvg_nst.tensor_files import read_tensors, save_tensors

FORMAT_VERSION = 2
# Of a token that is computed again: far more than another device or another version of PyTorch makes of float32.
TOLERANCE = 1e-2
_METADATA_KEY = "stvg_nst_encoding"
_TENSOR = "tokens"


class EncodingStoreError(RuntimeError):
    """A file of the store is damaged, or does not hold what its name says or what this encoder answers."""


class KeptEncodings(Protocol):
    """Tokens by what they were made from."""

    def get(self, content: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tokens of a clip and a sentence, on any device, as they are kept or else as ``compute`` makes them.

        Args:
            content: checksum of all that the tokens depend on besides the encoder.
            compute: makes them.
        """


class EncodingMemory:
    """Encodings in the memory of this process, for as long as it runs.

    Args:
        most_bytes: that they may take; what does not fit beside the first ones is computed every time.
    """

    def __init__(self, most_bytes: int) -> None:
        self._tokens: dict[str, Tensor] = {}
        self._bytes_left = most_bytes

    def get(self, content: str, compute: Callable[[], Tensor]) -> Tensor:
        """As of :class:`KeptEncodings`; on the CPU where they were kept."""
        if content in self._tokens:
            return self._tokens[content]
        tokens = compute()
        if tokens.nbytes <= self._bytes_left:
            self._tokens[content] = tokens.detach().cpu()
            self._bytes_left -= tokens.nbytes
        return tokens


class EncodingStore:
    """Tokens by what they were made from, one safetensors file each:
    ``<folder>/v<format>/<encoder>/<content>.safetensors``.

    The names are checksums of the encoder's weights and of the clip's features and sentence. What else the tokens
    depend on, such as the number of heads or the program itself, is checked and not named: the first encoding that a
    store reads is computed again, and must agree. The folder grows with every new clip, sentence and encoder, and may
    be deleted at any time.

    Several processes may use one folder at once: a file appears complete or not at all, and where two compute the same
    encoding they compute the same numbers.

    Args:
        folder: made with the first file.
        encoder: fingerprint of all weights that the tokens depend on.
    """

    def __init__(self, folder: Path | str, encoder: str) -> None:
        self.folder = Path(folder) / f"v{FORMAT_VERSION}" / encoder
        self._confirmed = False

    def get(self, content: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tokens of a clip and a sentence, read from the store, or computed and stored.

        Args:
            content: checksum of all that the tokens depend on besides the encoder.
            compute: makes them; a float32 tensor on any device.

        Returns:
            On the CPU where they were read, on the device of ``compute`` otherwise.

        Raises:
            EncodingStoreError: the file is there, but damaged, or holds what this encoder would not answer.
        """
        path = self.folder / f"{content}.safetensors"
        if path.exists():
            tokens = _read(path)
            if not self._confirmed:
                self._confirm(path, tokens, compute().cpu())
            return tokens
        tokens = compute()
        stored = tokens.detach().cpu().contiguous()
        save_tensors(path, {_TENSOR: stored}, {_METADATA_KEY: json.dumps(_header(path, stored), sort_keys=True)})
        return tokens

    def _confirm(self, path: Path, stored: Tensor, computed: Tensor) -> None:
        if stored.shape != computed.shape or not torch.allclose(stored, computed, rtol=TOLERANCE, atol=TOLERANCE):
            raise EncodingStoreError(
                f"{path} does not hold what this encoder answers to its clip and sentence: settings other than the "
                f"weights, or the program, have changed; delete '{self.folder}', or choose another --model.encodings"
            )
        self._confirmed = True


def _read(path: Path) -> Tensor:
    remedy = "delete it, and it is computed again"
    try:
        tensors, metadata = read_tensors(path)
        header, tokens = json.loads(metadata[_METADATA_KEY]), tensors[_TENSOR]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise EncodingStoreError(f"{path} holds no readable encoding ({error!r}); {remedy}") from error
    expected = _header(path, tokens)
    if header != expected:
        raise EncodingStoreError(f"{path} is damaged or misnamed: expected {expected}, got {header}; {remedy}")
    return tokens


def _header(path: Path, tokens: Tensor) -> dict[str, str | int]:
    """Safetensors notices a file cut short, but neither a flipped bit nor another name."""
    return {"encoder": path.parent.name, "content": path.stem, "crc32": zlib.crc32(tokens.numpy().data)}
