"""Clean-room TubeDETR."""

from stvg_nst.models.tubedetr.model import TubeDETR

__all__ = ["TubeDETR"]
