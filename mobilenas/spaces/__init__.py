"""What can be found, and how a found arch becomes a module."""

from mobilenas.spaces.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.build import Network
from mobilenas.spaces.build_cell import build_cell
from mobilenas.spaces.cell import Cell, CellArch, Edge, Genotype
from mobilenas.spaces.genotypes import CELL_NETWORKS, format_genotype, parse_genotype
from mobilenas.spaces.mobile import Choice, MobileSpace, Slot, Stage
from mobilenas.spaces.mobilenets import MOBILENETS, PLACEMENTS, small_image_strides
from mobilenas.spaces.networks import Arch, arch_from_dict, build, read_arch
from mobilenas.spaces.widths import WidthsArch, WidthsSpace

__all__ = [
    "CELL_NETWORKS",
    "MOBILENETS",
    "PLACEMENTS",
    "Arch",
    "Block",
    "Cell",
    "CellArch",
    "Choice",
    "Edge",
    "Genotype",
    "Head",
    "MobileArch",
    "MobileSpace",
    "Network",
    "Slot",
    "Stage",
    "Stem",
    "WidthsArch",
    "WidthsSpace",
    "arch_from_dict",
    "build",
    "build_cell",
    "format_genotype",
    "parse_genotype",
    "read_arch",
    "small_image_strides",
]
