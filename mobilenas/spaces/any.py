"""Any space and its choices, by one name each."""

from mobilenas.spaces.cell_space import CellChoice, CellSpace
from mobilenas.spaces.mobile import Choice, MobileSpace
from mobilenas.spaces.widths import WidthsSpace

AnySpace = MobileSpace | CellSpace
"""A space that a supernet relaxes."""
AnyChoice = Choice | CellChoice

SPACES: dict[str, type[AnySpace]] = {"mobile": MobileSpace, "cell": CellSpace}
"""By the name that `--space` takes."""
WIDTHS = "widths"
"""Name of the space of `mobilenas channels`."""
RUN_SPACES: dict[str, type[AnySpace] | type[WidthsSpace]] = {**SPACES, WIDTHS: WidthsSpace}
"""By the name in run.json."""


def choice_type(space: AnySpace) -> type[AnyChoice]:
    """Return what a choice of the space is."""
    return CellChoice if isinstance(space, CellSpace) else Choice
