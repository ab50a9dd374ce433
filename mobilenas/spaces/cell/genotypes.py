"""Genotypes in the notation of the DARTS papers, and published networks."""

import ast
from collections.abc import Callable, Sequence

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted, from_plain
from mobilenas.spaces.cell.arch import Cell, CellArch, Genotype

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat=[2])"
)
_LONGEST_TEXT = 20_000
_MAX_PLACES = 100
_PER_NODE = 2  # edges per node in flat lists

# second order, searched on CIFAR-10 (Liu et al. 2019, figures 4 and 5)
_DARTS_V2 = """Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
            ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
    normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=[2, 3, 4, 5])"""
# searched on CIFAR-10 (Xu et al. 2020)
_PC_DARTS_CIFAR = """Genotype(
    normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
            ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)],
    normal_concat=range(2, 6),
    reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
            ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
    reduce_concat=range(2, 6))"""
# searched on ImageNet (Xu et al. 2020)
_PC_DARTS_IMAGENET = """Genotype(
    normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1),
            ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
    normal_concat=range(2, 6),
    reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
            ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)],
    reduce_concat=range(2, 6))"""


def parse_genotype(text: str) -> Genotype:
    """Parse `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)`.

    A flat list has two edges per node, as in the papers; a list of lists has any number. The text
    is never executed.
    """
    given = _fields(text)
    plain = {
        name: {"nodes": _nodes(name, given[name]), "concat": _concat(given[f"{name}_concat"])}
        for name in ("normal", "reduce")
    }
    genotype: Genotype = from_plain(Genotype, plain, "genotype")
    return genotype


def format_genotype(genotype: Genotype) -> str:
    """Format for `parse_genotype`: flat if every node has two edges, else nested."""
    cells = (("normal", genotype.normal), ("reduce", genotype.reduce))
    parts = (f"{name}={_listed(cell)}, {name}_concat={list(cell.concat)}" for name, cell in cells)
    return f"Genotype({', '.join(parts)})"


def darts_v2(image_size: int = 32, classes: int = 10) -> CellArch:
    """Return DARTS, order 2: CIFAR-10, 20 cells, 36 channels, 3.3 M params (Liu et al. 2019)."""
    return _cifar(_DARTS_V2, image_size, classes, drop_path=0.2)


def pc_darts_cifar(image_size: int = 32, classes: int = 10) -> CellArch:
    """Return PC-DARTS: CIFAR-10, 20 cells, 36 channels, 3.6 M params (Xu et al. 2020, table 1)."""
    return _cifar(_PC_DARTS_CIFAR, image_size, classes, drop_path=0.3)


def pc_darts_imagenet(image_size: int = 224, classes: int = 1000) -> CellArch:
    """Return PC-DARTS: ImageNet, 14 cells, 48 channels, 5.3 M params (Xu et al. 2020, table 2)."""
    return CellArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem="imagenet",
        layers=14,
        channels=48,
        genotype=parse_genotype(_PC_DARTS_IMAGENET),
        auxiliary=True,
        drop_path=0.0,
    )


CELL_NETWORKS: dict[str, Callable[..., CellArch]] = {
    "darts_v2": darts_v2,
    "pc_darts_cifar": pc_darts_cifar,
    "pc_darts_imagenet": pc_darts_imagenet,
}
"""Published networks by name: (image size, classes) -> arch."""


def _cifar(text: str, image_size: int, classes: int, drop_path: float) -> CellArch:
    return CellArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem="cifar",
        layers=20,
        channels=36,
        genotype=parse_genotype(text),
        auxiliary=True,
        drop_path=drop_path,
    )


def _fields(text: str) -> dict[str, object]:
    """Return the arguments of the call by name."""
    wrong = MobileNASError(f"{text[:80]!r} is not a genotype; write {_EXAMPLE}")
    if len(text) > _LONGEST_TEXT:
        raise wrong
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Genotype" or call.args:
            raise wrong
        given = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        # as ast's documentation lists for text that is not Python or not a literal
        raise wrong from error
    if len(call.keywords) != len(_FIELDS) or set(given) != set(_FIELDS):
        names = ", ".join(str(keyword.arg) for keyword in call.keywords)
        raise MobileNASError(f"genotype has the fields {names}; they must be {', '.join(_FIELDS)}")
    return {str(name): value for name, value in given.items()}


def _literal(node: ast.expr) -> object:
    """Return the value of a literal or of `range(2, 6)`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
        limits = [ast.literal_eval(argument) for argument in node.args]
        if all(type(limit) is int and 0 <= limit <= _MAX_PLACES for limit in limits):
            return list(range(*limits))
    return ast.literal_eval(node)


def _concat(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _nodes(name: str, value: object) -> object:
    """Return the edges by node, in the form for `from_plain`, which reports other errors."""
    if not isinstance(value, list):
        return value
    if any(isinstance(item, list) for item in value):
        return [
            [_edge(edge) for edge in item] if isinstance(item, list) else item for item in value
        ]
    if len(value) % _PER_NODE:
        raise MobileNASError(
            f"genotype.{name} has {counted(len(value), 'edge')}; a flat list has {_PER_NODE} for "
            "every node"
        )
    edges = [_edge(edge) for edge in value]
    return [edges[first : first + _PER_NODE] for first in range(0, len(edges), _PER_NODE)]


def _edge(value: object) -> object:
    if isinstance(value, tuple) and len(value) == 2:
        return {"operation": value[0], "input": value[1]}
    return value


def _listed(cell: Cell) -> Sequence[object]:
    nodes = [[(edge.operation, edge.input) for edge in edges] for edges in cell.nodes]
    if all(len(edges) == _PER_NODE for edges in nodes):
        return [edge for edges in nodes for edge in edges]
    return nodes
