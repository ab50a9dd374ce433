"""Which channel sizes of a traceable model are tied; counts of it, and the model resized."""

from mobilenas.dependencies.groups import Dimension, Graph, Group, Layer, Member, Part, sizes
from mobilenas.dependencies.models import load_model
from mobilenas.dependencies.resize import Resizing, resized
from mobilenas.dependencies.rules import extract

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
