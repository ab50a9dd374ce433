"""Image sources, splits and batches."""

from typing import TYPE_CHECKING

from mobilenas.core.lazy import lazy

if TYPE_CHECKING:
    from mobilenas.data.batching import batches, batches_per_pass
    from mobilenas.data.chance import beats_chance, chance_remark, chance_top1
    from mobilenas.data.image_data import ImageData, ImageKind
    from mobilenas.data.image_files import IMAGE_SUFFIXES, read_image
    from mobilenas.data.settings import BUILT_IN_SOURCES, Augmentation, DataSettings
    from mobilenas.data.sources import load_data
    from mobilenas.data.splits import (
        Split,
        generator_for,
        halves,
        stratified_parts,
        stratified_subset,
    )
    from mobilenas.data.stores import FileStore, ImageStore, TensorStore

__all__ = [
    "BUILT_IN_SOURCES",
    "IMAGE_SUFFIXES",
    "Augmentation",
    "DataSettings",
    "FileStore",
    "ImageData",
    "ImageKind",
    "ImageStore",
    "Split",
    "TensorStore",
    "batches",
    "batches_per_pass",
    "beats_chance",
    "chance_remark",
    "chance_top1",
    "generator_for",
    "halves",
    "load_data",
    "read_image",
    "stratified_parts",
    "stratified_subset",
]

__getattr__ = lazy(
    __name__,
    batching="batches batches_per_pass",
    chance="beats_chance chance_remark chance_top1",
    image_files="IMAGE_SUFFIXES read_image",
    image_data="ImageData ImageKind",
    settings="Augmentation BUILT_IN_SOURCES DataSettings",
    sources="load_data",
    splits="Split generator_for halves stratified_parts stratified_subset",
    stores="FileStore ImageStore TensorStore",
)
