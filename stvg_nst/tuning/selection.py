"""Which linear layers of a model a tuner wraps."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def select_by_name(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """Layers whose qualified name matches a shell-style pattern, in the model's order; ``*`` also crosses dots.

    A layer that the model holds under several names is selected once, by its first name, whichever of them matched.

    Raises:
        ValueError: there is no pattern, or one matches nothing, or something that is no ``nn.Linear``.
    """
    if not patterns:
        raise ValueError("expected at least one target pattern, got none; name layers such as 'decoder.*.linear2'")
    # With duplicates, so that every name of a shared layer can be matched.
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    first_names: dict[nn.Module, str] = {}
    for name, module in modules.items():
        first_names.setdefault(module, name)

    matched: set[nn.Module] = set()
    for pattern in patterns:
        names = [name for name in modules if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(f"target '{pattern}' matches no module; {_suggest(pattern, modules)}")
        for name in names:
            if not isinstance(modules[name], nn.Linear):
                kind = type(modules[name]).__name__
                raise ValueError(f"target '{pattern}' must match nn.Linear only, got {kind} at '{name}'; narrow it")
        matched.update(modules[name] for name in names)
    return {name: module for module, name in first_names.items() if module in matched and isinstance(module, nn.Linear)}


def _suggest(pattern: str, modules: dict[str, nn.Module]) -> str:
    linears = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    close = get_close_matches(pattern, linears, n=5, cutoff=0.4) or linears[:5]
    if not close:
        return "the model has no nn.Linear at all"
    return "nn.Linear layers with close names: " + ", ".join(f"'{name}'" for name in close)
