"""Neural architecture search for phones: a network that keeps a budget, from images to ONNX.

Import from the rooms (`mobilenas.search`, `mobilenas.train`, ...); this file imports nothing, so
that `mobilenas --help` answers at once.
"""

__version__ = "0.1.0"
