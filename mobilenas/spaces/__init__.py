"""What can be found, and how a found arch becomes a module."""

from mobilenas.spaces.arch import Block, Head, MobileArch, Stem, read_arch
from mobilenas.spaces.build import build
from mobilenas.spaces.mobile import Choice, MobileSpace, Slot, Stage
from mobilenas.spaces.mobilenets import MOBILENETS, PLACEMENTS, small_image_strides

__all__ = [
    "MOBILENETS",
    "PLACEMENTS",
    "Block",
    "Choice",
    "Head",
    "MobileArch",
    "MobileSpace",
    "Slot",
    "Stage",
    "Stem",
    "build",
    "read_arch",
    "small_image_strides",
]
