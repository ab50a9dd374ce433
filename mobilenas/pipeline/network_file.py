"""Writes a trained network as ONNX with all metadata that an app needs."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from mobilenas.core.files import to_json, write_bytes
from mobilenas.core.settings import COUNTING_RULE, to_plain
from mobilenas.cost.budget import Budget
from mobilenas.data import ImageData, batches
from mobilenas.onnx.export import check_parity, export_onnx
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.record import Parity
from mobilenas.pipeline.run_folder import versions
from mobilenas.spaces.base import Arch

PARITY_IMAGES = 256
"""Maximum number of validation images on which file and module are compared."""


def write_network(
    model: nn.Module,
    arch: Arch,
    data: ImageData,
    path: Path,
    *,
    budgets: Sequence[Budget] = (),
    dynamic_batch: bool = False,
    threads: int = 1,
) -> Parity:
    """Export a trained module, with labels, normalization, arch and budgets in the metadata.

    The file is written to `path` only if its logits on validation images, one image at a time,
    agree with the module's; else FileError.
    """
    images = (x for x, _ in batches(data.val, data, batch_size=64, seed=None))
    with tempfile.TemporaryDirectory(prefix="mobilenas-export-") as folder:
        unchecked = Path(folder, path.name)
        export_network(model, arch, data, unchecked, budgets=budgets, dynamic_batch=dynamic_batch)
        parity = check_parity(model, unchecked, _first(images, PARITY_IMAGES), threads)
        write_bytes(path, unchecked.read_bytes())
    return parity


def _first(given: Iterable[Tensor], images: int) -> Iterator[Tensor]:
    for x in given:
        if images <= 0:
            return
        yield x[:images]
        images -= len(x)


def export_network(
    model: nn.Module,
    arch: Arch,
    data: ImageData,
    path: Path,
    *,
    budgets: Sequence[Budget] = (),
    dynamic_batch: bool = False,
) -> None:
    """Export a module without comparing its logits."""
    described = ModelMetadata(
        labels=data.classes,
        mean=data.mean,
        std=data.std,
        image_size=data.image_size,
        pixel_range=data.pixel_range,
    ).to_strings()
    described |= {
        "arch": to_json(arch.to_dict()),
        "budgets": to_json(to_plain(budgets)),
        "counting_rule": COUNTING_RULE,
        "versions": to_json(versions()),
    }
    export_onnx(
        model,
        path,
        image_size=data.image_size,
        channels=data.channels,
        metadata=described,
        dynamic_batch=dynamic_batch,
    )
