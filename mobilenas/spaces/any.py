"""Either space and its choices, by one name each."""

from mobilenas.spaces.cell_space import CellChoice, CellSpace
from mobilenas.spaces.mobile import Choice, MobileSpace

AnySpace = MobileSpace | CellSpace
AnyChoice = Choice | CellChoice

SPACES: dict[str, type[AnySpace]] = {"mobile": MobileSpace, "cell": CellSpace}
"""By the name that `--space` takes."""


def choice_type(space: AnySpace) -> type[AnyChoice]:
    """Return what a choice of the space is."""
    return CellChoice if isinstance(space, CellSpace) else Choice
