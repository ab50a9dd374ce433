"""Baselines, random networks, the rival, and the report.

What trains networks is imported from its own module: a report needs no search.
"""

from mobilenas.compare.table import Row, summarize

__all__ = ["Row", "summarize"]
