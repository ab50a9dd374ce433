import random
from collections import Counter
from itertools import product
from typing import Any

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.spaces.cell.genotypes import format_genotype
from mobilenas.spaces.cell.space import LEFT_OUT, CellChoice, CellSpace, EdgeTarget

OPERATIONS = ("sep_conv_3x3", "skip_connect")


def space(edges: str = "2/node", **changes: Any) -> CellSpace:
    nodes = changes.get("nodes", 4)
    fields: dict[str, Any] = {"image_size": 16, "in_channels": 3, "classes": 5}
    return CellSpace(**fields, edges=EdgeTarget.parse(edges, nodes), **changes)


def every_cell(space: CellSpace) -> list[tuple[int, ...]]:
    """Every cell with as many edges as the space keeps and of which a network can be built."""
    options = range(LEFT_OUT, len(space.operations))
    counts = [min(space.edges.kept, len(group)) for group in space.groups()]
    cells = []
    for picks in product(options, repeat=len(space.edge_ends)):
        if [sum(picks[e] != LEFT_OUT for e in group) for group in space.groups()] != counts:
            continue
        try:
            space.genotype(CellChoice(normal=picks, reduce=picks))
        except MobileNASError:
            continue
        cells.append(picks)
    return cells


def test_edges_are_numbered_as_in_darts() -> None:
    assert space().edge_ends == (
        *((0, 0), (1, 0)),
        *((0, 1), (1, 1), (2, 1)),
        *((0, 2), (1, 2), (2, 2), (3, 2)),
        *((0, 3), (1, 3), (2, 3), (3, 3), (4, 3)),
    )
    nodes = [[0, 1], [2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12, 13]]
    assert space("2/node").groups() == nodes
    assert space("3/cell").groups() == [list(range(14))]


@pytest.mark.parametrize(
    ("text", "kept", "of", "shown"),
    [
        ("2/node", 2, "node", "2/node"),
        ("1/n", 1, "node", "1/node"),
        (" 3/cell ", 3, "cell", "3/cell"),
        ("3/14", 3, "cell", "3/cell"),
    ],
)
def test_targets_are_read(text: str, kept: int, of: str, shown: str) -> None:
    target = EdgeTarget.parse(text)
    assert target == EdgeTarget(kept=kept, of=of)
    assert str(target) == shown
    assert EdgeTarget.parse(str(target)) == target


def test_the_number_of_all_edges_follows_from_the_nodes() -> None:
    assert EdgeTarget.parse("3/5", nodes=2) == EdgeTarget(kept=3, of="cell")
    with pytest.raises(MobileNASError, match="'3/13'; a cell with 4 nodes has 14 edges: write 3/1"):
        EdgeTarget.parse("3/13")


@pytest.mark.parametrize("text", ["", "3", "3/", "/14", "3/14/2", "-1/node", "2/edge", "1e1/node"])
def test_other_targets_are_quoted(text: str) -> None:
    with pytest.raises(MobileNASError, match=f"edges is '{text}'; write 2/node"):
        EdgeTarget.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 0}, "nodes is 0; it must be 1 to 6"),
        ({"operations": ()}, "operations is empty; it must name one or more"),
        ({"operations": ("skip_connect",) * 2}, "operations is skip_connect, skip_connect; "),
        ({"operations": ("none",)}, "operations is 'none'; it must be one of sep_conv_3x3, "),
        ({"edges": "0/node"}, "edges.kept is 0; it must be a whole number above 0"),
        ({"edges": "6/node"}, "edges is 6/node; the last node of a cell with 4 nodes has 5 edges"),
        ({"edges": "15/14"}, "edges is 15/cell; a cell with 4 nodes has 14 edges"),
        ({"stem": "mobile"}, "stem is 'mobile'; it must be one of cifar, imagenet"),
        ({"channels": 7}, "^channels is 7; it must be even"),
        ({"layers": 0}, "^layers is 0; it must be a whole number, 1 to 200"),
        ({"search_channels": 7}, "^search_channels is 7; it must be even"),
        ({"search_layers": 201}, "^search_layers is 201; it must be a whole number, 1 to 200"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be between 0 and 0.99"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNASError, match=message):
        space(**changes)


def test_a_space_round_trips() -> None:
    given = space("3/14", channels=8, layers=5, operations=OPERATIONS)
    assert from_plain(CellSpace, to_plain(given), "space") == given
    choice = given.random(random.Random(0))
    assert from_plain(CellChoice, to_plain(choice), "choice") == choice


def test_a_choice_by_hand() -> None:
    given = space("3/cell", nodes=3, operations=("skip_connect", "sep_conv_5x5"), layers=3)
    out = LEFT_OUT
    choice = CellChoice(
        normal=(out, 0, out, out, out, 1, out, 1, out), reduce=(1, 0, 0, out, out) + (out,) * 4
    )
    assert given.is_legal(choice)
    assert format_genotype(given.genotype(choice)) == (
        "Genotype(normal=[[('skip_connect', 1)], [], [('sep_conv_5x5', 0), ('sep_conv_5x5', 2)]], "
        "normal_concat=[2, 3, 4], "
        "reduce=[[('sep_conv_5x5', 0), ('skip_connect', 1)], [('skip_connect', 0)], []], "
        "reduce_concat=[2, 3, 4])"
    )
    arch = given.arch(choice)
    # a node without edges has no channels in the output
    assert [place.out_channels for place in arch.cells] == [2 * 16, 2 * 32, 2 * 64]
    assert (arch.layers, arch.channels, arch.drop_path, arch.auxiliary) == (3, 16, 0.0, False)


def test_the_supernets_places_have_every_edge_and_its_own_size() -> None:
    given = space("3/cell", layers=20, channels=36, search_layers=3, search_channels=4)
    arch = given.search_arch()
    assert (arch.layers, arch.channels) == (3, 4)
    assert [len(edges) for edges in arch.genotype.normal.nodes] == [2, 3, 4, 5]
    assert arch.genotype.reduce == arch.genotype.normal
    assert [place.in_channels for place in arch.cells] == [(12, 12), (12, 16), (16, 32)]


@pytest.mark.parametrize("edges", ["1/node", "2/node", "3/node", "1/5", "2/5", "3/5", "5/5"])
def test_what_is_legal_is_what_can_be_built(edges: str) -> None:
    given = space(edges, nodes=2, operations=OPERATIONS)
    legal = {
        picks
        for picks in product((LEFT_OUT, 0, 1, 2), repeat=5)
        if given.is_legal(CellChoice(normal=picks, reduce=picks))
    }
    cells = every_cell(given)
    assert legal == set(cells) != set()
    wrong = (LEFT_OUT,) * 5
    assert not given.is_legal(CellChoice(normal=cells[0], reduce=wrong))
    assert not given.is_legal(CellChoice(normal=cells[0][:-1], reduce=cells[0]))


@pytest.mark.parametrize("edges", ["1/node", "2/node", "2/cell", "3/cell"])
def test_random_choices_are_uniform_among_the_legal_ones(edges: str) -> None:
    given = space(edges, nodes=2, operations=OPERATIONS)
    source, cells = random.Random(0), every_cell(given)
    per_cell = 60
    drawn = [given.random(source) for _ in range(per_cell * len(cells))]
    for kind in ("normal", "reduce"):
        counts = Counter(choice.of(kind) for choice in drawn)
        assert set(counts) == set(cells)
        spread = sum((count - per_cell) ** 2 / per_cell for count in counts.values())
        # chi square: mean d, standard deviation sqrt(2 d)
        freedom = len(cells) - 1
        assert abs(spread - freedom) < 4 * (2 * freedom) ** 0.5
    assert given.random(random.Random(7)) == given.random(random.Random(7))


@pytest.mark.parametrize("nodes", range(1, 7))
def test_every_target_has_networks_from_small_to_large(nodes: int) -> None:
    every = nodes * (nodes + 3) // 2
    targets = [f"{kept}/node" for kept in range(1, nodes + 2)]
    targets += [f"{kept}/cell" for kept in range(1, every + 1)]
    for target in targets:
        given, source = space(target, nodes=nodes), random.Random(0)
        for choice in (given.smallest(), given.largest(), given.random(source)):
            assert given.is_legal(choice)
            given.arch(choice)


def test_the_smallest_fills_few_nodes_and_the_largest_all() -> None:
    given = space("6/cell")
    small, large = (given.genotype(c).normal for c in (given.smallest(), given.largest()))
    assert [len(edges) for edges in small.nodes] == [1, 2, 3, 0]
    assert 0 not in small.reads
    assert all(large.nodes)
    assert {0, 1} <= large.reads
    assert {e.operation for edges in small.nodes for e in edges} == {"max_pool_3x3"}
    assert {e.operation for edges in large.nodes for e in edges} == {"sep_conv_5x5"}


def test_a_node_keeps_all_of_its_inputs_where_they_are_few() -> None:
    given = space("3/node")
    cell = given.genotype(given.random(random.Random(0))).normal
    assert [len(edges) for edges in cell.nodes] == [2, 3, 3, 3]
