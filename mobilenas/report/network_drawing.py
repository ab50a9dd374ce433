"""Sections of the report on the found network: its drawing, whatever its space, and its layers."""

from functools import singledispatch

from mobilenas.core.settings import counted
from mobilenas.cost.networks import costs, layer_costs
from mobilenas.report import page as html
from mobilenas.report.cell_drawing import draw_cell
from mobilenas.report.channels import widths_section
from mobilenas.report.files import RunFiles
from mobilenas.report.plots import arch_drawing
from mobilenas.spaces.cell.arch import Cell, CellArch
from mobilenas.spaces.cell.genotypes import format_genotype
from mobilenas.spaces.mobile.arch import MobileArch


def found_network(files: RunFiles) -> str:
    """Show the network."""
    if files.arch is None:
        return html.missing("arch.json", "mobilenas search")
    return draw_network(files.arch)


@singledispatch
def draw_network(arch: object) -> str:
    """Draw a network; every kind of arch registers here what draws it."""
    raise TypeError(f"nothing draws a {type(arch).__name__}")


@draw_network.register
def _chain(arch: MobileArch) -> str:
    caption = (
        "Height: output channels. Colour: kernel; 3+5: a depthwise convolution before the "
        "expansion, and the block's own. Expansion: hidden channels over input channels. "
        "SE: squeeze-excite. ÷2: stride. Stem and head in grey; the head is not to scale."
    )
    return html.figure(arch_drawing(arch), caption, wide=True)


@draw_network.register
def _cells(arch: CellArch) -> str:
    reductions = " and ".join(str(number + 1) for number in sorted(arch.reductions))
    first, last = arch.places[0].channels, arch.places[-1].channels
    size = (
        f"{counted(arch.layers, 'cell')} behind the {arch.stem} stem; a node has "
        f"{counted(first, 'channel')} in the first and {last} in the last. Reductions: "
        f"{reductions}."
    )
    cells = (("Normal cell", arch.genotype.normal), ("Reduction cell", arch.genotype.reduce))
    figures = "".join(
        html.figure(draw_cell(cell, title), f"{title}. {_cell_caption(cell)}", wide=True)
        for title, cell in cells
    )
    copied = f"<pre>{html.text(format_genotype(arch.genotype))}</pre>"
    return html.paragraph(size) + figures + html.paragraph("Both, to copy:", "note") + copied


draw_network.register(widths_section)


def _cell_caption(cell: Cell) -> str:
    told = "A node is the sum of its edges, the output c_k the concatenation of nodes."
    if not all(cell.nodes):
        told += " An empty node is not there: the concatenation leaves it out."
    return told


def layer_table(files: RunFiles) -> str:
    """Show what every layer costs."""
    if files.arch is None:
        return html.missing("arch.json", "mobilenas search")
    layers, exact = layer_costs(files.arch), costs(files.arch)
    rows = [
        (
            layer.name,
            " x ".join(map(str, layer.out_shape)),
            f"{layer.flops:,}",
            f"{100 * layer.flops / exact.flops:.1f}",
            f"{layer.params:,}",
            f"{layer.memory / 1000:.1f}",
        )
        for layer in layers
    ]
    whole = ("the network", "", f"{exact.flops:,}", "100.0", f"{exact.params:,}")
    total = (*whole, f"{exact.memory / 1000:.1f}")
    header = ("layer", "output", "FLOPs", "% of FLOPs", "params", "memory, kB")
    told = "Memory: activations alive while the layer runs, float32; the network's is the largest."
    table = html.table(header, rows, total=total, sortable=True)
    return html.details(counted(len(layers), "layer"), table) + html.paragraph(told, "note")
