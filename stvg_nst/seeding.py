"""Seeds that depend on names, not on the order in which anything runs."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that is a pure function of ``parts``: the same on every machine, worker and rank.

    Each part is hashed with its type and length, so that ``("a", "bc")``, ``("ab", "c")`` and ``("1",)``, ``(1,)``
    give different seeds.
    """
    digest = hashlib.sha256()
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
