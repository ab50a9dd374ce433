"""The bilevel search: methods, candidates, finalists, diagnostics."""

from typing import TYPE_CHECKING

from mobilenas.core.lazy import lazy

if TYPE_CHECKING:
    from mobilenas.search.finalists import FINALISTS, SuccessiveHalving
    from mobilenas.search.run import (
        MeasureArchs,
        SearchResult,
        inherited_network,
        search,
        searched_choice,
    )
    from mobilenas.search.settings import FinalistSettings, SearchSettings
    from mobilenas.search.space import space_for

__all__ = [
    "FINALISTS",
    "FinalistSettings",
    "MeasureArchs",
    "SearchResult",
    "SearchSettings",
    "SuccessiveHalving",
    "inherited_network",
    "search",
    "searched_choice",
    "space_for",
]

__getattr__ = lazy(
    __name__,
    finalists="FINALISTS SuccessiveHalving",
    run="MeasureArchs SearchResult searched_choice inherited_network search",
    settings="FinalistSettings SearchSettings",
    space="space_for",
)
