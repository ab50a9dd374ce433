"""Types of what ONNX files hold."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""The numbers of a tensor, of the type that its file says."""
Attribute = Any
"""Of a node: a number, a text, a list of these or a graph."""
