"""The real data sets on disk: their annotation files, their videos, and whether they are sound."""

from datamodules.annotated.annotation import Annotation, Reading
from datamodules.annotated.fields import AnnotationError
from datamodules.annotated.source import DATA_SETS, AnnotatedSource, DataSet, HCSTVGSource, VidSTGSource, open_source

__all__ = [
    "DATA_SETS",
    "AnnotatedSource",
    "Annotation",
    "AnnotationError",
    "DataSet",
    "HCSTVGSource",
    "Reading",
    "VidSTGSource",
    "open_source",
]
