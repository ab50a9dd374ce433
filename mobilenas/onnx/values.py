"""Types of values in ONNX files."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""A tensor, with the dtype of its file."""
Attribute = Any
"""Attribute of a node: a number, a string, a list of these, or a graph."""
