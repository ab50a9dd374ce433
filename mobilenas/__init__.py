"""Neural architecture search for phones: a network that keeps a budget, from images to ONNX.

Import from the packages (`mobilenas.search`, `mobilenas.train`, ...); this file imports no other of
the project, so that `mobilenas --help` answers at once.
"""

import os

__version__ = "0.1.0"

# onnxruntime reads this when it is imported: without it, it writes a device id and events to the
# user's cache and sends them. Processes that are started here inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
