import math

import pytest
import torch
from torch import nn

from mobilenas.core.errors import MobileNASError
from mobilenas.search.diagnostics import (
    agreement,
    chosen_channels,
    gradient_norm,
    normalized_entropy,
)
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS
from mobilenas.spaces.cell.space import LEFT_OUT, CellChoice
from mobilenas.spaces.mobile.space import Choice


def test_the_entropy_is_a_share_of_its_maximum() -> None:
    p = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.25, 0.125, 0.125]])
    expected = torch.tensor([1.0, 0.0, 0.5, 1.75 / 2])
    torch.testing.assert_close(normalized_entropy(p), expected)
    options = torch.tensor([4, 1, 2, 4])  # a row with fewer options has a smaller maximum
    expected = torch.tensor([1.0, 0.0, 1.0, 1.75 / 2])
    torch.testing.assert_close(normalized_entropy(p, options), expected)


def test_one_column_is_nothing_to_decide() -> None:
    assert normalized_entropy(torch.ones(3, 1)).tolist() == [0, 0, 0]


def test_skips_of_published_cells() -> None:
    genotype = CELL_NETWORKS["darts_v2"](32, 10).genotype
    assert (genotype.normal.skips, genotype.reduce.skips) == (2, 3)


def test_the_gradient_norm_is_of_all_together() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(())), nn.Parameter()]
    assert gradient_norm(weights) == 0.0
    weights[0].grad, weights[1].grad = torch.tensor([2.0, 3.0]), torch.tensor(6.0)
    assert gradient_norm(iter(weights)) == pytest.approx(7.0)


def cells(normal: tuple[int, ...], reduce: tuple[int, ...]) -> CellChoice:
    return CellChoice(normal=normal, reduce=reduce)


OUT = LEFT_OUT
ONE = cells((0, 1, OUT, 2, 3), (1, 1, OUT, OUT, 0))


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (ONE, 1.0),
        (cells((1, 0, 1, OUT, OUT), (0, 0, 1, 1, OUT)), 0.0),  # no edge with the same operation
        (cells((0, 1, OUT, 2, 4), (1, 1, OUT, OUT, 0)), 6 / 8),  # one operation differs
        (cells((0, 1, 3, 2, OUT), (1, 1, OUT, OUT, 0)), 6 / 8),  # one edge differs
        (cells((1, 1, OUT, OUT, 0), (0, 1, OUT, 2, 3)), 2 / 12),  # only edge 1 of each
    ],
)
def test_cells_agree_in_what_they_keep(other: CellChoice, share: float) -> None:
    assert agreement([ONE, other]) == agreement([other, ONE]) == pytest.approx(share)


def chain(**changes: tuple[int, ...] | tuple[bool, ...]) -> Choice:
    plain = {
        "width": (0, 1),
        "kernel": (0, 1, 0),
        "expansion": (0, 0, 1),
        "squeeze": (1, 0, 1),
        "start": (0, 1, 0),
        "keep": (True, True, False),
    }
    return Choice(**(plain | changes))


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (chain(), 1.0),
        (chain(kernel=(0, 1, 1), squeeze=(1, 0, 0)), 1.0),  # of a block that neither has
        (chain(width=(0, 0)), 12 / 13),
        (chain(kernel=(1, 1, 0)), 12 / 13),
        (chain(start=(0, 0, 0)), 12 / 13),
        (chain(keep=(True, False, False)), 8 / 13),  # the block and all it does differ
        (chain(keep=(True, True, True)), 12 / 17),  # four more decisions, none shared
    ],
)
def test_chains_agree_in_the_decisions_that_count(other: Choice, share: float) -> None:
    assert agreement([chain(), other]) == agreement([other, chain()]) == pytest.approx(share)


def test_agreement_is_the_mean_over_pairs() -> None:
    far = cells((1, 0, 1, OUT, OUT), (0, 0, 1, 1, OUT))
    assert agreement([ONE, ONE, far]) == pytest.approx(1 / 3)
    with pytest.raises(MobileNASError, match="two networks or more, not 1"):
        agreement([ONE])


class Counts(nn.Module):
    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(row)

    def frequencies(self) -> torch.Tensor:
        return self.row


def test_channels_are_told_by_the_place_that_samples() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Counts([1 / 3, 1.0, 0.0])))
    assert chosen_channels(net) == {"1.1": [0.333, 1.0, 0.0]}
    assert chosen_channels(net[0]) == {}
    assert math.isclose(sum(chosen_channels(Counts([0.25, 0.75]))[""]), 1.0)
