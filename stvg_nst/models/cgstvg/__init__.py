"""Clean-room CG-STVG."""

from stvg_nst.models.cgstvg.model import CGSTVG
from stvg_nst.models.cgstvg.motion import VideoEncoder
from stvg_nst.models.cgstvg.text import TextEncoder
from stvg_nst.models.cgstvg.visual import ImageEncoder

__all__ = ["CGSTVG", "ImageEncoder", "TextEncoder", "VideoEncoder"]
