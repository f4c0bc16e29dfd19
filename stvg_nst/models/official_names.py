"""Parameter names of an original's code, translated to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

UNUSED = "no forward pass of the original uses it"
DERIVED = "follows from the configuration"

Replacement = str | Callable[[re.Match[str]], str]


class OfficialNames:
    """How the tensors of an official checkpoint are called here, and which of them have no place.

    Args:
        model: the original, as messages name it.
        ignored: patterns of official names without a counterpart, each with the reason.
        renames: patterns and what replaces them, in order; each name goes through all of them.
        convolutions: our names of linear weights that are 1 x 1 convolutions there.
    """

    def __init__(
        self,
        model: str,
        *,
        ignored: Sequence[tuple[str, str]],
        renames: Sequence[tuple[str, Replacement]],
        convolutions: Sequence[str],
    ) -> None:
        self.model = model
        self._ignored = tuple((re.compile(pattern), reason) for pattern, reason in ignored)
        self._renames = tuple((re.compile(pattern), replacement) for pattern, replacement in renames)
        self._convolutions = frozenset(convolutions)

    def ignored_reason(self, official: str) -> str | None:
        """Why an official tensor has no counterpart among ours, ``None`` for one that has."""
        return next((reason for pattern, reason in self._ignored if pattern.match(official)), None)

    def translate_name(self, official: str) -> str | None:
        """Our name of an official tensor, ``None`` for one of :meth:`ignored_reason`.

        Packed attention projections keep their official ending (``in_proj_weight``); :meth:`translate_tensor` splits
        them.
        """
        if self.ignored_reason(official) is not None:
            return None
        name = official
        for pattern, replacement in self._renames:
            name = pattern.sub(replacement, name)
        return name

    def translate_tensor(self, official: str, value: Tensor) -> dict[str, Tensor]:
        """An official tensor under our names, none where it has no counterpart.

        Packed projections (3 D, ...) become three, 1 x 1 convolutions (D, C, 1, 1) linear layers (D, C); all are views.
        """
        name = self.translate_name(official)
        if name is None:
            return {}
        if name.endswith((".in_proj_weight", ".in_proj_bias")):
            stem, kind = name.rsplit(".in_proj_", 1)
            parts = zip("qkv", value.tensor_split(3), strict=True)
            return {f"{stem}.{part}_proj.{kind}": rows for part, rows in parts}
        return {name: value.flatten(1) if name in self._convolutions else value}
