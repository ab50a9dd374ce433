"""Settings of the cell space."""

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from mobilenas.core.setting import setting
from mobilenas.spaces.cell.space import EdgeTarget

EdgeWeights = Literal["none", "softmax", "clipped"]
"""Edge weights: none, softmax of betas (PC-DARTS), or of min(beta, 1) (DA2S)."""
EDGE_WEIGHTS: tuple[EdgeWeights, ...] = get_args(EdgeWeights)


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """Sizes of the cell space; None: chosen by the budgets."""

    edges: EdgeTarget = field(default_factory=EdgeTarget)
    """Number of edges that a network keeps."""
    layers: int | None = None
    """Cells of the searched networks."""
    channels: int | None = None
    """Initial channels of the searched networks."""
    search_layers: int = 8
    """Cells of the supernet."""
    search_channels: int = 16
    """Initial channels of the supernet."""
    auxiliary: bool = False
    """Whether final training has an auxiliary classifier."""
    drop_path: float = 0.0
    """Largest probability of dropping an edge in final training."""


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """The user's options for the cell space; None: the default of `CellSettings`."""

    edges: str | None = setting(
        None,
        help="Cells: edges to keep, such as 2/node or 3/14.",
        default_text="2/node",
        metavar="K/N",
        rare=True,
    )
    layers: int | None = setting(
        None,
        help="Cells: number of cells in the networks.",
        default_text="8",
        rare=True,
        low=1,
        high=200,
    )
    channels: int | None = setting(
        None,
        help="Cells: initial channels of the networks.",
        default_text="by the budgets, or 16",
        rare=True,
        low=2,
        high=4096,
    )
    search_layers: int | None = setting(
        None,
        help="Cells: number of cells in the supernet.",
        default_text=f"{CellSettings.search_layers}",
        rare=True,
        low=1,
        high=200,
    )
    search_channels: int | None = setting(
        None,
        help="Cells: initial channels of the supernet.",
        default_text=f"{CellSettings.search_channels}",
        rare=True,
        low=2,
        high=4096,
    )
    auxiliary: bool | None = setting(
        None,
        help="Cells: train with a second classifier.",
        default_text="no",
        group="Training",
        rare=True,
    )
    drop_path: float | None = setting(
        None,
        help="Cells: largest probability of dropping an edge in training.",
        default_text=f"{CellSettings.drop_path:g}",
        group="Training",
        metavar="P",
        rare=True,
        low=0,
        high=0.99,
    )

    @property
    def cell_settings(self) -> CellSettings:
        """The settings, with defaults for options that were not given."""
        given = {one.name: getattr(self, one.name) for one in fields(CellOptions)}
        stated = {name: value for name, value in given.items() if value is not None}
        if self.edges is not None:
            stated["edges"] = EdgeTarget.parse(self.edges)
        return CellSettings(**stated)
