"""Bilevel search, discretization, finalists."""

from mobilenas.search.finalists import FINALISTS, FinalistSettings, SuccessiveHalving
from mobilenas.search.run import Confirm, SearchResult, found_choice, inherited_network, search
from mobilenas.search.settings import SearchSettings
from mobilenas.search.space import space_for

__all__ = [
    "FINALISTS",
    "Confirm",
    "FinalistSettings",
    "SearchResult",
    "SearchSettings",
    "SuccessiveHalving",
    "found_choice",
    "inherited_network",
    "search",
    "space_for",
]
