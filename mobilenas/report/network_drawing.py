"""Sections of the report on the searched network: its drawing and its layers."""

from functools import singledispatch

from markupsafe import Markup

from mobilenas.cost.networks import costs, layer_costs
from mobilenas.report.cell_drawing import draw_cell
from mobilenas.report.channels import channels_section
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render
from mobilenas.report.plots import arch_drawing
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.genotypes import format_genotype
from mobilenas.spaces.mobile.arch import MobileArch


def searched_network(files: RunFiles) -> Markup:
    """Show the searched network."""
    if files.arch is None:
        return missing("arch.json", "mobilenas search")
    return draw_network(files.arch)


@singledispatch
def draw_network(arch: object) -> Markup:
    """Draw a network; a function is registered here for every type of arch."""
    raise TypeError(f"nothing draws a {type(arch).__name__}")


@draw_network.register
def _chain(arch: MobileArch) -> Markup:
    return render("network_chain.html", drawing=arch_drawing(arch))


@draw_network.register
def _cells(arch: CellArch) -> Markup:
    cells = {"Normal cell": arch.genotype.normal, "Reduction cell": arch.genotype.reduce}
    return render(
        "network_cells.html",
        arch=arch,
        reductions=[number + 1 for number in sorted(arch.reductions)],
        cells=[(title, cell, draw_cell(cell, title)) for title, cell in cells.items()],
        genotype=format_genotype(arch.genotype),
    )


draw_network.register(channels_section)


def layer_table(files: RunFiles) -> Markup:
    """Show the costs of all layers."""
    if files.arch is None:
        return missing("arch.json", "mobilenas search")
    return render("layers.html", layers=layer_costs(files.arch), whole=costs(files.arch))
