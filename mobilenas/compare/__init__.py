"""Baselines, random networks, the rival, and the report."""

from mobilenas.compare.baselines import Contender, mobilenets, random_networks, scaled_mobilenet
from mobilenas.compare.report import write_report
from mobilenas.compare.rival import rival
from mobilenas.compare.table import Row, summarize

__all__ = [
    "Contender",
    "Row",
    "mobilenets",
    "random_networks",
    "rival",
    "scaled_mobilenet",
    "summarize",
    "write_report",
]
