"""Image sources, splits and batches."""

from mobilenas.data.batches import Augmentation, batches, batches_per_pass
from mobilenas.data.chance import beats_chance, chance_top1, guessing
from mobilenas.data.image_files import IMAGE_SUFFIXES, read_image
from mobilenas.data.settings import BUILT_IN_SOURCES, DataSettings, ImageData, ImageKind
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
    "chance_top1",
    "generator_for",
    "guessing",
    "halves",
    "load_data",
    "read_image",
    "stratified_parts",
    "stratified_subset",
]
