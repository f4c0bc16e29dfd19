"""Decompositions on disk: a frozen weight is split once, and every later run gets the same bases bit for bit."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from stvg_nst.nullspace.split import DualSpace, RankRule, check_rule, fingerprint, split_dual_space, warn_of_tie
from stvg_nst.tensor_files import read_tensors, save_tensors

# Raise it with every change of `split_dual_space` that gives other numbers for the same weight.
FORMAT_VERSION = 1
METADATA_KEY = "stvg_nst_dual_space"
TENSORS = ("row", "null", "singular_values")
# Data that somebody else looks after, or that is mounted to be read.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)

_log = logging.getLogger(__name__)


class DualSpaceStoreError(RuntimeError):
    """A file of the store is damaged, or does not hold what its name says."""


class DualSpaceStore:
    """Dual spaces by weight, rule and threshold, one safetensors file each: ``<fingerprint>-<rule>[-<threshold>]``.

    A second decomposition of one weight, by another number of threads or another library, may give other bases of the
    same spaces; a stored one does not change. A file takes 8 d_in^2 bytes, 32 MiB for 2048 inputs.

    Several processes may use one folder at once. A file appears complete or not at all; where two compute the same
    one, the later replaces the earlier, and each goes on with what it computed.

    Args:
        folder: made with the first file.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def get(self, weight: Tensor, *, rule: RankRule = "exact", threshold: float | None = None) -> DualSpace:
        """The dual space of a weight (d_out, d_in), read from the store, or computed and stored.

        Where the folder may not be written, it is computed every time, and a log says so.

        Args:
            weight, rule, threshold: as in :func:`~stvg_nst.nullspace.split_dual_space`.

        Raises:
            ValueError: as there.
            DualSpaceStoreError: the file is there, but damaged or not what its name says.

        Warns:
            UserWarning: as there, whether it is computed or read.
        """
        check_rule(rule, threshold)
        key = _Key(fingerprint(weight), rule, None if threshold is None else float(threshold))
        path = self.folder / key.file_name
        if path.exists():
            space = _read(path, key)
            warn_of_tie(space)
            return space
        space = split_dual_space(weight, rule=rule, threshold=threshold)
        try:
            _write(path, space, key)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            _log.warning("'%s' cannot be written (%s): decompositions are computed anew", self.folder, error.strerror)
        return space


@dataclass(frozen=True, slots=True)
class _Key:
    """What a decomposition depends on; the fingerprint covers the weight's shape and dtype."""

    fingerprint: str
    rule: RankRule
    threshold: float | None

    @property
    def file_name(self) -> str:
        threshold = "" if self.threshold is None else f"-{self.threshold!r}"
        return f"{self.fingerprint}-{self.rule}{threshold}.safetensors"


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of itself, beside its tensors.

    ``checksums`` are the tensors' fingerprints by name, and that of all else here as ``header``. The first files lack
    the latter.
    """

    format_version: int
    fingerprint: str
    rule: RankRule
    threshold: float | None
    shape: tuple[int, int]
    leakage: float
    noise: float
    checksums: dict[str, str]

    def own_checksum(self) -> str:
        said = {name: value for name, value in asdict(self).items() if name != "checksums"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _write(path: Path, space: DualSpace, key: _Key) -> None:
    tensors = {name: getattr(space, name) for name in TENSORS}
    header = _Header(
        format_version=FORMAT_VERSION,
        **asdict(key),
        shape=space.shape,
        leakage=space.leakage,
        noise=space.noise,
        # Safetensors notices a file cut short, but not a flipped bit.
        checksums={name: fingerprint(tensor) for name, tensor in tensors.items()},
    )
    header.checksums["header"] = header.own_checksum()
    save_tensors(path, tensors, {METADATA_KEY: json.dumps(asdict(header), sort_keys=True)})


def _read(path: Path, key: _Key) -> DualSpace:
    remedy = "delete it, and it is computed again"
    try:
        tensors, metadata = read_tensors(path)
    except SafetensorError as error:
        raise DualSpaceStoreError(f"{path} is no readable safetensors file ({error}); {remedy}") from error
    if (text := metadata.get(METADATA_KEY)) is None:
        raise DualSpaceStoreError(f"{path} holds no dual space: expected metadata '{METADATA_KEY}'; {remedy}")
    try:
        header = _Header(**json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise DualSpaceStoreError(f"{path} has damaged metadata ({error}); {remedy}") from error
    if header.format_version != FORMAT_VERSION:
        raise DualSpaceStoreError(
            f"{path} has format {header.format_version}, this version reads {FORMAT_VERSION}; {remedy}"
        )
    if (found := _Key(header.fingerprint, header.rule, header.threshold)) != key:
        raise DualSpaceStoreError(f"{path} is of another decomposition: expected {key}, got {found}; {remedy}")
    if set(tensors) != set(TENSORS):
        raise DualSpaceStoreError(f"{path}: expected tensors {', '.join(TENSORS)}, got {', '.join(tensors)}; {remedy}")
    found_sums = {name: fingerprint(tensor) for name, tensor in tensors.items()}
    if header.checksums not in (found_sums, {**found_sums, "header": header.own_checksum()}):
        raise DualSpaceStoreError(f"{path} is damaged: it does not have the checksums that it states; {remedy}")
    d_out, d_in = header.shape
    return DualSpace(
        shape=(d_out, d_in),
        singular_values=tensors["singular_values"],
        rank=tensors["row"].shape[1],
        noise=header.noise,
        row=tensors["row"],
        null=tensors["null"],
        leakage=header.leakage,
        fingerprint=header.fingerprint,
    )
