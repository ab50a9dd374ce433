"""Figures of papers, held against what the cost model counts where it knows the network."""

import re

import pytest

from mobilenas.baselines.published import LATENCIES, PUBLISHED, Published, PublishedLatency
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


@pytest.mark.parametrize("latency", LATENCIES, ids=lambda one: f"{one.network}-{one.device}")
def test_every_latency_is_of_a_published_network_and_has_its_file(
    latency: PublishedLatency,
) -> None:
    assert latency.network in BY_NAME
    assert re.fullmatch(r"Qualcomm AI Hub Models 0\.46\.1, \w+/perf\.yaml", latency.source)
    file = latency.source.partition(", ")[2].partition("/")[0]
    assert file.replace("_", "") == latency.network.lower().replace("-", "")
    assert latency.precision in ("float", "w8a8", "w8a16")


def test_latencies_are_those_of_the_files() -> None:
    of = {
        (one.network, one.device, one.runtime, one.precision): one.latency_ms for one in LATENCIES
    }
    assert len(of) == len(LATENCIES)
    assert of["MobileNetV2", "Samsung Galaxy S24", "TFLite, NPU", "float"] == 0.593
    assert of["MobileNetV2", "Samsung Galaxy S25", "TFLite, NPU", "w8a8"] == 0.214
    assert of["MobileNetV3-Small", "Samsung Galaxy S25", "ONNX Runtime, NPU", "float"] == 0.398
    assert of["MobileNetV3-Large", "Samsung Galaxy S24", "QNN, NPU", "w8a16"] == 0.659
