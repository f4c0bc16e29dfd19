"""Arrays on disk under keys: memory-mapped, checksummed, and bound to what they were made from."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

_INDEX, _SUM = "index.json", "crc32"
_SCHEMA = 1


class CacheError(RuntimeError):
    """A cache that is absent, damaged, or made from something other than what is asked for."""


@dataclass(frozen=True, slots=True)
class CacheKind:
    """What a folder of arrays holds, and how it is made.

    Args:
        name: in messages.
        data_file: in the folder, beside the index.
        dtype: of all its arrays.
        command: that builds it.
        option: of the data module, that names the folder.
    """

    name: str
    data_file: str
    dtype: str
    command: str
    option: str

    def remedy(self, folder: Path) -> str:
        return f"delete '{folder}' and build it again with `{self.command}`"


class ArrayWriter:
    """Writes arrays into a temporary folder that takes its final name when all have been written.

    What a killed process has left of the same folder is deleted first: its lock on the data file has ended with it.
    Where a file system has no locks, nothing is deleted.

    Args:
        kind: of cache.
        folder: of the cache; it must not exist.
        provenance: what the arrays depend on; a reader must ask for the same.
        header: what else a reader may want to know.
    """

    def __init__(self, kind: CacheKind, folder: Path, provenance: Mapping[str, Any], **header: Any) -> None:
        self._kind, self._folder = kind, folder
        self._header = {"schema": _SCHEMA, "provenance": dict(provenance), **header}
        self._rows: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in self._folder.parent.glob(f".{self._folder.name}.*/{self._kind.data_file}"):
            if _is_abandoned(left_behind):
                shutil.rmtree(left_behind.parent, ignore_errors=True)  # another may remove it too
        self._temporary = self._folder.with_name(f".{self._folder.name}.{uuid.uuid4().hex}")
        self._temporary.mkdir()  # with the permissions of any other folder, for it becomes the cache
        # Locked before it has the name that others look for, so that none finds it without its lock.
        self._data = open(self._temporary / "locking", "wb")
        with suppress(OSError):
            _lock(self._data)
        os.rename(self._data.name, self._temporary / self._kind.data_file)
        return self

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, arrays: Sequence[np.ndarray], **note: Any) -> None:
        """Appends arrays under a key that is new, and a note about them."""
        if key in self._rows:
            raise ValueError(f"'{key}' is in the cache already; each key is written once")
        offset, checksum = self._data.tell(), 0
        for array in arrays:
            data = np.ascontiguousarray(array, dtype=self._kind.dtype).reshape(-1).view(np.uint8).data
            checksum = zlib.crc32(data, checksum)
            self._data.write(data)
        shapes = [list(array.shape) for array in arrays]
        self._rows[key] = {"offset": offset, "shapes": shapes, "crc32": checksum, **note}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._data:  # and so its lock, until the folder has its name
                self._data.flush()  # fails where the disk is full
                if kind is None:
                    content = {**self._header, "rows": self._rows}
                    (self._temporary / _INDEX).write_text(json.dumps({**content, _SUM: _sum(content)}))
                    self._take_name()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)  # it is not there any more where it took its name

    def _take_name(self) -> None:
        try:
            os.replace(self._temporary, self._folder)
        except OSError as error:
            if not self._folder.exists():
                raise
            raise CacheError(
                f"'{self._folder}' was finished by another process in the meantime; use it, or "
                f"{self._kind.remedy(self._folder)}"
            ) from error


def _sum(content: Mapping[str, Any]) -> int:
    """Checksum of what an index says, however JSON writes it down."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _lock(file: IO[bytes]) -> None:
    """Raises OSError where another holds the lock, or the file system has none."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(data_file: Path) -> bool:
    """Whether no process writes it any more, as far as locks can tell."""
    try:
        with open(data_file, "r+b") as file:  # some network file systems lock only what is open for writing
            _lock(file)
    except OSError:
        return False
    return True


class ArrayStore:
    """Reads arrays by key; every read maps its part of the file anew, and is checked against its checksum.

    Nothing stays open or mapped in between, so that a store may be pickled into loader processes, whose memory does
    not grow with what they have read.

    Args:
        kind: of cache.
        folder: written by :class:`ArrayWriter`.
        provenance: what the caller expects the arrays to depend on.

    Attributes:
        header: what the writer was told besides.
        rows: the notes about the arrays of each key, including their places in the file.

    Raises:
        CacheError: the folder is absent, incomplete or has another provenance.
    """

    def __init__(self, kind: CacheKind, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._kind, self._folder, self._file = kind, folder, folder / kind.data_file
        if not (folder / _INDEX).is_file():
            raise CacheError(f"no {kind.name} in '{folder}': build it with `{kind.command}`")
        try:
            self.header: dict[str, Any] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            stated = self.header.pop(_SUM, None)
            summed = _sum(self.header)
            if stated is not None and stated != summed:  # older ones state none
                raise CacheError(
                    f"'{folder / _INDEX}' is damaged: its checksum is {summed}, and it states {stated}; "
                    f"{kind.remedy(folder)}"
                )
            self.rows: dict[str, dict[str, Any]] = self.header.pop("rows")
            found = self.header["provenance"]
            size = sum(self._num_bytes(row) for row in self.rows.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"'{folder / _INDEX}' is damaged ({error!r}); {kind.remedy(folder)}") from error
        self._check_provenance(found, json.loads(json.dumps(dict(provenance))))
        actual = self._file.stat().st_size if self._file.is_file() else 0
        if actual != size:
            raise CacheError(f"'{self._file}' must have {size} bytes, got {actual}; {kind.remedy(folder)}")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def largest_row_bytes(self) -> int:
        """Of the key with most bytes, 0 where there is none."""
        return max((self._num_bytes(row) for row in self.rows.values()), default=0)

    def require(self, keys: Iterable[str]) -> None:
        """Raises CacheError where some of ``keys`` are absent."""
        lacking = [key for key in keys if key not in self.rows]
        if lacking:
            raise CacheError(
                f"the {self._kind.name} in '{self._folder}' holds {len(self)} versions of clips, but lacks "
                f"{len(lacking)} that this run shows, the first being '{lacking[0]}'; {self._kind.remedy(self._folder)}"
            )

    def read(self, key: str) -> list[np.ndarray]:
        """The arrays of a key; what is written into them stays in memory.

        Raises:
            CacheError: the key is absent, or its bytes do not match their checksum.
        """
        if key not in self.rows:
            raise CacheError(
                f"'{key}' is not in the {self._kind.name} '{self._folder}'; {self._kind.remedy(self._folder)}"
            )
        row = self.rows[key]
        num_bytes = self._num_bytes(row)
        data = np.empty(0, np.uint8)
        if num_bytes:  # of nothing there is no map
            data = self._bytes(row["offset"], num_bytes)
        if zlib.crc32(data.data) != row["crc32"]:
            raise CacheError(f"the bytes of '{key}' in '{self._folder}' are damaged; {self._kind.remedy(self._folder)}")
        values = np.asarray(data).view(self._kind.dtype)
        ends = np.cumsum([math.prod(shape) for shape in row["shapes"]])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(values, ends), row["shapes"], strict=True)]

    def _bytes(self, offset: int, count: int) -> np.ndarray:
        """A part of the file, mapped; read where the file system cannot map, as some of clusters cannot."""
        try:
            return np.memmap(self._file, np.uint8, mode="c", offset=offset, shape=(count,))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        return np.fromfile(self._file, np.uint8, count=count, offset=offset)

    def _num_bytes(self, row: Mapping[str, Any]) -> int:
        return np.dtype(self._kind.dtype).itemsize * sum(math.prod(shape) for shape in row["shapes"])

    def _check_provenance(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        # How many versions a cache holds is no condition of their making; older ones counted them.
        for name in sorted((expected.keys() | found.keys()) - {"versions"}):
            if expected.get(name) != found.get(name):
                raise CacheError(
                    f"the {self._kind.name} in '{self._folder}' was built with {name} = {found.get(name)!r}, but this "
                    f"run has {expected.get(name)!r}; {self._kind.remedy(self._folder)}, or set --data.init_args."
                    f"{self._kind.option} null to do without"
                )
