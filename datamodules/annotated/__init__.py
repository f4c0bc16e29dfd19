"""Data sets on disk as published: their annotation files, their videos, and whether they are sound."""

from datamodules.annotated.annotation import Annotation, Convention, Reading
from datamodules.annotated.fields import AnnotationError
from datamodules.annotated.source import AnnotatedSource

__all__ = ["AnnotatedSource", "Annotation", "AnnotationError", "Convention", "Reading"]
