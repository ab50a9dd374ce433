"""Costs of cell archs against fvcore, the module, and counts by hand."""

import random

import pytest

from mobilenas.cost.networks import costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.cell.arch import OPERATIONS, Cell, CellArch, Edge, Genotype
from mobilenas.spaces.cell.costs import cell_layer_costs
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype
from mobilenas.spaces.networks import build


def drawn_cell(source: random.Random) -> Cell:
    """Up to four edges a node, empty nodes among them; the first one reads input 1."""
    nodes: list[tuple[Edge, ...]] = [(Edge(operation=source.choice(OPERATIONS), input=1),)]
    legal = [0, 1, 2]
    for node in range(3, 3 + source.randrange(5)):
        reads = source.choices(legal, k=source.randrange(5))
        nodes.append(tuple(Edge(operation=source.choice(OPERATIONS), input=read) for read in reads))
        legal += [node] if reads else []
    return Cell(nodes=tuple(nodes), concat=tuple(range(2, 2 + len(nodes))))


def drawn_arch(seed: int) -> CellArch:
    source = random.Random(seed)
    return CellArch(
        image_size=source.randrange(32, 70),
        in_channels=source.choice((1, 3)),
        classes=source.randrange(2, 20),
        stem=source.choice(("cifar", "imagenet")),
        layers=source.randrange(1, 6),
        channels=2 * source.randrange(1, 5),
        genotype=Genotype(normal=drawn_cell(source), reduce=drawn_cell(source)),
        auxiliary=source.random() < 0.5,
        drop_path=0.2,
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_archs_cost_what_fvcore_and_the_module_say(seed: int) -> None:
    arch = drawn_arch(seed)
    module, exact = build(arch), costs(arch)
    counted = count_fvcore(module, arch.image_size, arch.in_channels)
    assert [layer.flops for layer in cell_layer_costs(arch)] == list(counted.values())
    assert exact.flops == sum(counted.values())
    named = module.named_parameters()
    assert exact.params == sum(w.numel() for name, w in named if not name.startswith("auxiliary."))


@pytest.mark.parametrize(
    ("name", "flops", "params"),
    [
        ("darts_v2", 528_359_040, 3_349_342),
        ("pc_darts_cifar", 556_670_592, 3_634_678),
        ("pc_darts_imagenet", 581_627_328, 5_342_464),
    ],
)
def test_published_networks(name: str, flops: int, params: int) -> None:
    exact = costs(CELL_NETWORKS[name]())
    assert (exact.flops, exact.params) == (flops, params)
    assert exact.flops < 600e6  # the papers' mobile setting


def handmade(text: str, layers: int) -> CellArch:
    """4x4 RGB; the stem has 6 channels, every cell is a reduction."""
    return CellArch(
        image_size=4,
        in_channels=3,
        classes=5,
        stem="cifar",
        layers=layers,
        channels=2,
        genotype=parse_genotype(text),
        auxiliary=True,
        drop_path=0.0,
    )


def values(arch: CellArch) -> dict[str, float]:
    return {layer.name: layer.memory / 4 for layer in cell_layer_costs(arch)}


PLAIN = "normal=[[('skip_connect', 1)]], normal_concat=[2]"


def test_memory_of_every_layer_by_hand() -> None:
    text = (
        f"Genotype({PLAIN}, reduce=[[('max_pool_3x3', 0), ('skip_connect', 1)], "
        "[('dil_conv_3x3', 2)]], reduce_concat=[2, 3])"
    )
    # the image is 48 values, the stem's map 96, an entered input 64, a node 16, the output 32
    arch = handmade(text, layers=1)
    assert values(arch) == {
        "stem": 48 + 96,
        "cells.0.enter.0": 96 + 64,
        "cells.0.enter.1": 96 + 64 + 64,
        "cells.0.nodes.0.1.even": 16 + 64 + 8,  # the pool's map waits for the sum
        "cells.0.nodes.0.1.odd": 16 + 64 + 8 + 8,
        "cells.0.nodes.1.0.depthwise": 16 + 16,
        "cells.0.nodes.1.0.project": 16 + 16 + 32,  # less than the concatenation that follows
        "classifier": 8 + 5,
    }
    assert costs(arch).memory == 4 * 224


@pytest.mark.parametrize(("reads", "waiting"), [(0, 96), (1, 0)])
def test_a_map_waits_while_a_later_cell_reads_it(reads: int, waiting: int) -> None:
    text = (
        f"Genotype({PLAIN}, reduce=[[('skip_connect', 1)], [('skip_connect', {reads})]], "
        "reduce_concat=[2, 3])"
    )
    counted = values(handmade(text, layers=2))
    assert ("cells.0.enter.0" in counted) == (reads == 0)
    entered = 64 * (2 - reads)
    assert counted["cells.0.nodes.0.0.even"] == waiting + entered + 8
    # its sum of one edge is no new map; both nodes wait for the concatenation
    assert counted["cells.0.nodes.1.0.odd"] == waiting + max(16 + 64 + 16, 16 + 16 + 32)
