"""Grounding models behind one interface."""

from stvg_nst.models.base import Grounder
from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.models.tubedetr import TubeDETR

__all__ = ["CGSTVG", "Grounder", "TubeDETR"]
