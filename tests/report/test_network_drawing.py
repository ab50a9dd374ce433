"""What draws a network of each space."""

import pytest

from mobilenas.report.network_drawing import draw_network
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS


def test_a_chain_and_cells_are_drawn_each_in_its_own_way() -> None:
    assert "The searched network, block by block" in draw_network(
        MOBILENETS["mobilenet_v2"](0.25, 32, 4)
    )
    assert "Reduction cell" in draw_network(CELL_NETWORKS["darts_v2"](16, 5))


def test_a_network_that_nothing_draws_is_named() -> None:
    with pytest.raises(TypeError, match="nothing draws a complex"):
        draw_network(1j)
