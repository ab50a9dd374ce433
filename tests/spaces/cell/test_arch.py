"""Cell archs: their JSON form, what is legal, and the genotypes of the papers."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import write_json
from mobilenas.spaces.cell.arch import OPERATIONS, STEMS, Cell, CellArch, Edge, Genotype
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, format_genotype, parse_genotype
from mobilenas.spaces.networks import read_arch


def cell(*nodes: Sequence[tuple[str, int]], concat: Sequence[int] | None = None) -> Cell:
    """Every node is concatenated unless told otherwise."""
    return Cell(
        nodes=tuple(tuple(Edge(operation=op, input=read) for op, read in edges) for edges in nodes),
        concat=tuple(range(2, 2 + len(nodes))) if concat is None else tuple(concat),
    )


FEW = st.integers(0, 3)
PLAIN = cell([("skip_connect", 1)])


@st.composite
def cells(draw: st.DrawFn, edges: st.SearchStrategy[int] = FEW) -> Cell:
    """Any number of edges a node, empty nodes among them; the first node reads input 1."""
    nodes: list[list[tuple[str, int]]] = []
    legal = [0, 1]
    for number in range(draw(st.integers(1, 5))):
        reads = [draw(st.sampled_from(legal)) for _ in range(draw(edges))]
        if number == 0:
            reads = [1, *reads[1:]]
        nodes.append([(draw(st.sampled_from(OPERATIONS)), read) for read in reads])
        legal += [number + 2] if reads else []
    read = {source for node in nodes for _, source in node}
    # a node that a later one reads may be left out of the concatenation, but not all of them
    last = max(legal)
    optional = draw(st.sets(st.sampled_from(sorted(read | {last}))))
    concat = [p for p in range(2, 2 + len(nodes)) if p == last or p not in read or p in optional]
    return cell(*nodes, concat=concat)


GENOTYPES = st.builds(Genotype, normal=cells(), reduce=cells())
ARCHS = st.builds(
    CellArch,
    image_size=st.integers(32, 4096),
    in_channels=st.integers(1, 64),
    classes=st.integers(2, 1000),
    stem=st.sampled_from(STEMS),
    layers=st.integers(1, 30),
    channels=st.integers(1, 100).map(lambda half: 2 * half),
    genotype=GENOTYPES,
    auxiliary=st.booleans(),
    drop_path=st.floats(0, 0.99),
)


@given(ARCHS)
def test_the_json_form_comes_back_as_the_same_arch(arch: CellArch) -> None:
    assert CellArch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


@given(GENOTYPES)
def test_the_genotype_text_comes_back_as_the_same_cells(genotype: Genotype) -> None:
    assert parse_genotype(format_genotype(genotype)) == genotype


@given(st.builds(Genotype, normal=cells(st.just(2)), reduce=cells(st.just(2))))
def test_two_edges_a_node_are_written_as_the_papers_do(genotype: Genotype) -> None:
    text = format_genotype(genotype)
    assert text.startswith("Genotype(normal=[('")
    assert parse_genotype(text) == genotype


def test_the_notation_of_the_papers_is_read() -> None:
    text = """
    Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0),
    ('dil_conv_5x5', 2)], normal_concat=range(2, 4),
    reduce=[[('max_pool_3x3', 1)], [], [('max_pool_3x3', 2)]], reduce_concat=[2, 3, 4])
    """
    genotype = parse_genotype(text)
    assert genotype.normal == cell(
        [("sep_conv_3x3", 1), ("skip_connect", 0)], [("avg_pool_3x3", 0), ("dil_conv_5x5", 2)]
    )
    assert genotype.reduce == cell([("max_pool_3x3", 1)], [], [("max_pool_3x3", 2)])
    assert format_genotype(genotype) == (
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), "
        "('dil_conv_5x5', 2)], normal_concat=[2, 3], reduce=[[('max_pool_3x3', 1)], [], "
        "[('max_pool_3x3', 2)]], reduce_concat=[2, 3, 4])"
    )


def text_of(normal: str = "[('skip_connect', 0), ('skip_connect', 1)]", concat: str = "[2]") -> str:
    return (
        f"Genotype(normal={normal}, normal_concat={concat}, "
        "reduce=[('skip_connect', 0), ('skip_connect', 1)], reduce_concat=[2])"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a genotype; write Genotype(normal=["),
        ("Genotype(normal=[", "is not a genotype"),
        ("__import__('os').getcwd()", "is not a genotype"),
        ("(" * 5000, "is not a genotype"),
        ("-" * 15000 + "1", "is not a genotype"),
        (text_of() + " " * 20000, "is not a genotype"),
        (text_of("[print('run') for _ in 'x']"), "is not a genotype"),
        (text_of("print('run')"), "is not a genotype"),
        (text_of(concat="range(2, 10**9)"), "is not a genotype"),
        (text_of(concat="range(2, 101)"), "is not a genotype"),
        (text_of(concat="range()"), "is not a genotype"),
        (text_of(concat="{[]: 1}"), "is not a genotype"),
        ("Genotype(normal=[])", "genotype has the fields normal; they must be normal, normal_conc"),
        (
            text_of()[:-1] + ", reduce_concat=[2])",
            "genotype has the fields normal, normal_concat, reduce, reduce_concat, reduce_concat; ",
        ),
        (text_of("[('skip_connect', 0)]"), "genotype.normal has 1 edge; a flat list has 2 for"),
        (text_of("3"), "genotype.normal.nodes is 3; it must be a list"),
        (text_of("[[('skip_connect', 1)], 3]"), "genotype.normal.nodes[1] is 3; it must be a list"),
        (text_of("['a', 'b']"), "genotype.normal.nodes[0][0] is 'a'; it must be an object"),
        (text_of("[(1, 0), (1, 1)]"), "genotype.normal.nodes[0][0].operation is 1; it must be str"),
        (text_of(concat="'2'"), "genotype.normal.concat is '2'; it must be a list"),
        (text_of(concat="[2.0]"), "genotype.normal.concat[0] is 2.0; it must be int"),
        (
            text_of("[('none', 0), ('skip_connect', 1)]"),
            "genotype.normal.nodes[0][0].operation is 'none'; it must be one of sep_conv_3x3, ",
        ),
    ],
)
def test_what_is_no_genotype_is_refused_and_never_run(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MobileNASError) as raised:
        parse_genotype(text)
    assert message in str(raised.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            cell([("skip_connect", 1)], [("skip_connect", 3)]),
            "genotype.reduce.nodes[1][0].input is 3; it must be an input or an earlier node that "
            "has edges: 0, 1, 2",
        ),
        (
            cell([("skip_connect", 1)], [], [("skip_connect", 3)]),
            "genotype.reduce.nodes[2][0].input is 3; it must be an input or an earlier node that "
            "has edges: 0, 1, 2",
        ),
        (cell([("skip_connect", -1)]), "genotype.reduce.nodes[0][0].input is -1"),
        (cell([("skip_connect", True)]), "genotype.reduce.nodes[0][0].input is True"),
        (
            cell([("skip_connect", 1)], concat=[1, 2]),
            "genotype.reduce.concat is [1, 2]; it must be increasing indices of nodes, of 2",
        ),
        (cell([("skip_connect", 1)], concat=[2, 2]), "genotype.reduce.concat is [2, 2]; it must"),
        (cell([("skip_connect", 1)], concat=[3]), "genotype.reduce.concat is [3]; it must be"),
        (cell(), "genotype.reduce: no node of concat [] has an edge"),
        (cell([], []), "genotype.reduce: no node of concat [2, 3] has an edge"),
        (
            cell([("skip_connect", 1)], [], concat=[3]),
            "genotype.reduce: no node of concat [3] has an edge",
        ),
        (cell([("skip_connect", 0)]), "genotype.reduce: no edge reads input 1"),
        (
            cell([("skip_connect", 1)], [("skip_connect", 1)], concat=[3]),
            "genotype.reduce.nodes[0] has edges, but index 2 is neither in concat nor read",
        ),
    ],
)
def test_a_cell_that_cannot_be_built_is_refused(wrong: Cell, message: str) -> None:
    with pytest.raises(MobileNASError) as raised:
        Genotype(normal=PLAIN, reduce=wrong)
    assert str(raised.value).startswith(message)


def test_a_node_without_edges_is_not_in_the_output() -> None:
    sparse = cell([("skip_connect", 1)], [], [("max_pool_3x3", 0)], [])
    assert sparse.concat == (2, 3, 4, 5)
    assert sparse.outputs == (2, 4)
    arch = replace(
        CELL_NETWORKS["darts_v2"](), genotype=Genotype(normal=sparse, reduce=PLAIN), layers=3
    )
    assert [place.out_channels for place in arch.cells] == [2 * 36, 72, 144]


@pytest.mark.parametrize(
    ("layers", "reductions"), [(1, {0}), (2, {0, 1}), (3, {1, 2}), (14, {4, 9}), (20, {6, 13})]
)
def test_reductions_stand_at_a_third_and_two_thirds(layers: int, reductions: set[int]) -> None:
    arch = replace(CELL_NETWORKS["darts_v2"](), layers=layers)
    assert arch.reductions == reductions
    assert {n for n, place in enumerate(arch.cells) if place.stride == 2} == reductions
    assert [place.channels for place in arch.cells] == [
        36 * 2 ** sum(reduction <= number for reduction in reductions) for number in range(layers)
    ]


def test_every_cell_says_what_it_gets() -> None:
    arch = replace(CELL_NETWORKS["pc_darts_imagenet"](), layers=4, image_size=100)
    assert [(place.in_channels, place.in_sides, place.out_side) for place in arch.cells] == [
        ((48, 48), (25, 13), 13),
        ((48, 192), (13, 13), 7),
        ((192, 384), (13, 7), 4),
        ((384, 768), (7, 4), 4),
    ]


def edited(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return edit


def without(field: str) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        del data[field]

    return edit


FIRST_EDGE = ("genotype", "normal", "nodes", 0, 0)
BAD_EDITS = {
    "space": (edited("space", value="chain"), "arch.space is 'chain'; it must be one of mobile, c"),
    "no-space": (without("space"), "arch.space is None; it must be one of mobile, cell"),
    "missing": (without("classes"), "arch lacks 'classes'; its fields are image_size, in_channels"),
    "unknown": (edited("depth", value=3), "arch has an unknown field 'depth'; its fields are imag"),
    "small": (edited("image_size", value=3), "image_size is 3; it must be a whole number, 4 to 40"),
    "float": (edited("layers", value=3.0), "arch.layers is 3.0; it must be int"),
    "layers": (edited("layers", value=0), "layers is 0; it must be a whole number, 1 to 200"),
    "odd": (edited("channels", value=7), "channels is 7; it must be even"),
    "stem": (edited("stem", value="vit"), "stem is 'vit'; it must be one of cifar, imagenet"),
    "stem-size": (edited("stem", value="imagenet"), "image_size is 31; it must be a whole number,"),
    "auxiliary": (edited("auxiliary", value=1), "arch.auxiliary is 1; it must be bool"),
    "drop": (edited("drop_path", value=1), "drop_path is 1.0; it must be between 0 and 0.99"),
    "range": (edited("drop_path", value=1.5), "drop_path is 1.5; it must be between 0 and"),
    "edge": (
        edited(*FIRST_EDGE, value=["skip_connect", 0]),
        "arch.genotype.normal.nodes[0][0] is ['skip_connect', 0]; it must be an object",
    ),
    "operation": (
        edited(*FIRST_EDGE, "operation", value="conv_7x7"),
        "genotype.normal.nodes[0][0].operation is 'conv_7x7'; it must be one of sep_conv_3x3, sep",
    ),
    "input": (
        edited(*FIRST_EDGE, "input", value=2),
        "genotype.normal.nodes[0][0].input is 2; it must be an input or an earlier node",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BAD_EDITS.values(), ids=BAD_EDITS)
@pytest.mark.parametrize("in_run", [False, True])
def test_a_bad_hand_edit_names_file_place_value_and_what_is_legal(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str, in_run: bool
) -> None:
    data = copy.deepcopy(CELL_NETWORKS["darts_v2"](image_size=31).to_dict())
    edit(data)
    path = tmp_path / "arch.json"
    write_json(path, {"arch": data} if in_run else data)
    with pytest.raises(FileError) as raised:
        read_arch(path)
    assert str(raised.value).startswith(f"{path}: {message}")


def test_python_callers_get_the_same_checks() -> None:
    fields = vars(CELL_NETWORKS["darts_v2"]())
    with pytest.raises(MobileNASError, match="in_channels is True; it must be a whole number"):
        CellArch(**fields | {"in_channels": True})
    with pytest.raises(MobileNASError, match="auxiliary is 0; it must be true or false"):
        CellArch(**fields | {"auxiliary": 0})
    with pytest.raises(FileError, match=r"here: arch.space is 'mobile'; it must be cell"):
        CellArch.from_dict({"space": "mobile"}, "here")
