"""Bilevel search, discretization, finalists."""

from typing import TYPE_CHECKING

from mobilenas.core.lazy import lazy

if TYPE_CHECKING:
    from mobilenas.search.finalists import FINALISTS, SuccessiveHalving
    from mobilenas.search.run import Confirm, SearchResult, found_choice, inherited_network, search
    from mobilenas.search.settings import FinalistSettings, SearchSettings
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

__getattr__ = lazy(
    __name__,
    finalists="FINALISTS SuccessiveHalving",
    run="Confirm SearchResult found_choice inherited_network search",
    settings="FinalistSettings SearchSettings",
    space="space_for",
)
