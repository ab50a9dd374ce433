"""Tied channel sizes of traceable models: finding and counting them, and resizing models."""

from mobilenas.channel_graph.groups import Dimension, Graph, Group, Layer, Member, Part, sizes
from mobilenas.channel_graph.models import load_model
from mobilenas.channel_graph.resize import Resizing, resized
from mobilenas.channel_graph.rules import extract

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
