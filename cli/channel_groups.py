"""`mobilenas channels --graph-only`: shows which channel sizes of a model are tied."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted

from .terminal import clean, echo

if TYPE_CHECKING:
    from torch import nn

    from mobilenas.channel_graph import Graph, Group

IMAGE_SIZE = 224
MIN_SIZE, MAX_SIZE = 4, 4096
_NAME, _WHY, _LAYERS = 26, 16, 18  # characters: maximum of names and reasons, minimum of layers


def show_groups(
    model: str,
    *,
    image_size: int | None,
    classes: int | None,
    weights: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the groups of a model, and draw them to `out`."""
    if out is not None and out.suffix != ".svg":
        raise click.UsageError(f"--out is {str(out)!r}; with --graph-only it must end with .svg")
    network, graph = _extract(model, image_size=image_size, classes=classes, weights=weights)
    inexact = _inexact(network, graph)
    if out is not None:
        from mobilenas.channel_graph.drawing import groups_drawing
        from mobilenas.core.files import write_text

        write_text(out, groups_drawing(graph, model))
    if as_json:
        from .render import show_json

        show_json(_plain(model, graph, inexact))
        return
    _show(model, graph, inexact)
    if out is not None:
        echo(f"Drawing: {out}")


def _extract(
    model: str, *, image_size: int | None, classes: int | None, weights: Path | None
) -> tuple["nn.Module", "Graph"]:
    from mobilenas.channel_graph import extract, load_model
    from mobilenas.channels.start import UNKNOWN
    from mobilenas.spaces.networks import build
    from mobilenas.train.pretrained import SOURCES, load

    path = Path(model)
    if path.exists():
        if image_size is not None or classes is not None:
            raise MobileNASError(
                f"--image-size and --classes cannot be combined with {model}, which defines them"
            )
        return _of_arch(path / "arch.json" if path.is_dir() else path, weights)
    if ":" not in model and model not in SOURCES:
        raise MobileNASError(UNKNOWN.format(model))
    side = IMAGE_SIZE if image_size is None else image_size
    if not MIN_SIZE <= side <= MAX_SIZE:
        raise MobileNASError(
            f"--image-size is {side}; it must be between {MIN_SIZE} and {MAX_SIZE}"
        )
    if model in SOURCES:
        arch, state = load(model, classes=classes, image_size=side, weights=weights)
        network = build(arch)
        network.load_state_dict(state)
        return network, extract(network, image_size=side)
    loaded = load_model(model, classes=classes, image_size=side, weights=weights)
    return loaded, extract(loaded, image_size=side)


def _of_arch(path: Path, weights: Path | None) -> tuple["nn.Module", "Graph"]:
    from mobilenas.channel_graph import extract
    from mobilenas.spaces.networks import build, read_arch
    from mobilenas.train import load_weights

    arch = read_arch(path)
    network: Any = build(arch) if weights is None else load_weights(arch, weights)
    network.auxiliary = None  # the auxiliary classifier of cells is for training only
    return network, extract(network, image_size=arch.image_size, in_channels=arch.in_channels)


def _inexact(network: "nn.Module", graph: "Graph") -> dict[str, str]:
    from mobilenas.channels.weight_transfer import inexact

    return inexact(network, graph)


def _plain(model: str, graph: "Graph", inexact: dict[str, str]) -> dict[str, object]:
    return {
        "model": model,
        "flops": graph.flops({}),
        "params": graph.params({}),
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "divisor": group.divisor,
                "fixed": group.fixed,
                "inexact": inexact.get(group.name),
                "members": [
                    {
                        "module": member.module,
                        "kind": member.kind,
                        "offset": member.offset,
                        "size": member.size,
                        "repeat": member.repeat,
                    }
                    for member in group.members
                ],
            }
            for group in graph.groups
        ],
    }


def _show(model: str, graph: "Graph", inexact: dict[str, str]) -> None:
    # not `show_table`, which would right-align these columns with names
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .render import show_rule

    console = Console(highlight=False)
    name = min(_NAME, max(len(group.name) for group in graph.groups))
    why = min(_WHY, max([len("why fixed"), *map(len, graph.fixed.values())]))
    layers = max(_LAYERS, console.width - name - why - len("size multiple of ") - 3)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("group", max_width=name, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("multiple of", justify="right", max_width=len("multiple"))
    table.add_column("layers", max_width=layers, overflow="fold")
    table.add_column("why fixed", max_width=why, overflow="fold")
    for group in graph.groups:
        multiple = "-" if group.fixed else str(group.divisor)
        row = (group.name, str(group.size), multiple, _layers(group, layers), group.fixed or "")
        table.add_row(*(Text(clean(cell)) for cell in row))
    echo(f"Dependency groups of {model}")
    console.print(table)
    free = len(graph.groups) - len(graph.fixed)
    echo(
        f"\n{counted(len(graph.groups), 'group')}, {free} can change. "
        f"{graph.flops({}):,} FLOPs, {graph.params({}):,} params."
    )
    if inexact:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in inexact.items())
        message = (
            f"Growing these changes what the model computes, although weights are kept: {reasons}."
        )
        echo(click.wrap_text(message, 80))
    show_rule()


def _layers(group: "Group", width: int) -> str:
    """Return the number of layers, and as many of their names as fit in two lines."""
    from mobilenas.channel_graph.drawing import layer_names

    names = layer_names(group)
    first = [
        "itself" if name == group.name else _tail(name, width - len(", ...")) for name in names
    ]
    lines = textwrap.wrap(
        f"{len(names)}: {', '.join(first)}",
        width,
        max_lines=2,
        placeholder=" ...",
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def _tail(name: str, width: int) -> str:
    """Return the end of a name, which distinguishes layers of a block."""
    return name if len(name) <= width else "..." + name[3 - width :]
