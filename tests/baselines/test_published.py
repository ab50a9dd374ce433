"""Figures of papers, held against what the cost model counts where it knows the network."""

import re

import pytest

from mobilenas.baselines.published import PUBLISHED, Published
from mobilenas.cost.networks import costs
from mobilenas.spaces.mobile.mobilenets import MOBILENETS

BY_NAME = {network.name: network for network in PUBLISHED}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV3-Small", "mobilenet_v3_small"),
        ("MobileNetV3-Large", "mobilenet_v3_large"),
    ],
)
def test_published_costs_are_those_of_the_networks_built_here(name: str, ours: str) -> None:
    exact = costs(MOBILENETS[ours](1.0, 224, 1000))
    assert BY_NAME[name].flops == pytest.approx(exact.flops, rel=0.02)
    assert BY_NAME[name].params == pytest.approx(exact.params, rel=0.04)


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda network: network.name)
def test_every_figure_has_its_paper_and_table(network: Published) -> None:
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}, Table \d+", network.source)
    assert 60 < network.top1 < 85
    # multiply-adds, not twice as many; counts, not millions
    assert 50_000_000 <= network.flops <= 1_000_000_000
    assert network.params is None or 2_000_000 <= network.params < 10_000_000


def test_a_network_stands_there_once() -> None:
    assert len(BY_NAME) == len(PUBLISHED)
