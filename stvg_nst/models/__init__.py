"""Grounding models behind one interface."""

from stvg_nst.models.base import Grounder
from stvg_nst.models.cgstvg import CGSTVG

__all__ = ["CGSTVG", "Grounder"]
