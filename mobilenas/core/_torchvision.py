"""The only import of torchvision.

A torchvision built for another torch fails on import, because the schemas of its compiled operators
are missing. mobilenas uses none of these operators, so this module defines the missing schemas
before the import; with matching builds it defines nothing. All other modules import torchvision
from here.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = torch.library.Library("torchvision", "FRAGMENT")


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for file in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


def _define_missing() -> None:
    if _compiled_operators_load():
        return
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            _library.define(schema)


_define_missing()

import torchvision  # noqa: E402
from torchvision import datasets, models  # noqa: E402
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = ["datasets", "models", "torchvision", "transforms"]
