"""Channel sizes of any traceable model."""

from mobilenas.channels.groups import Dimension, Graph, Group, Layer, Member, Part, sizes
from mobilenas.channels.models import load_model
from mobilenas.channels.resize import Resizing, resized
from mobilenas.channels.rules import extract

__all__ = [
    "Dimension",
    "Graph",
    "Group",
    "Layer",
    "Member",
    "Part",
    "Resizing",
    "extract",
    "load_model",
    "resized",
    "sizes",
]
