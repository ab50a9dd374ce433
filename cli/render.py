"""Prints results as tables; computes nothing."""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mobilenas.core.files import to_json
from mobilenas.core.settings import (
    COUNTING_RULE,
    UNSTEADY,
    format_cell,
    format_count,
    format_latency,
    to_plain,
)

from .terminal import clean, echo

if TYPE_CHECKING:
    from mobilenas.baselines.records import NetworkRecord
    from mobilenas.core.records import BudgetRow
    from mobilenas.onnx.record import FileRecord, TargetReport
    from mobilenas.pipeline.comparison import Comparison
    from mobilenas.pipeline.records import ResultRecord
    from mobilenas.report.sweep_page import SweptRun
    from mobilenas.report.table import Row
    from mobilenas.spaces.cell.arch import CellArch
    from mobilenas.spaces.channels.space import ChannelsArch
    from mobilenas.spaces.mobile.arch import MobileArch

_MS = (
    "ms: median latency of one image ± half its 95 % interval. top-1 ±: standard deviation over "
    "networks or seeds."
)
_UNKNOWN = (
    "unknown: other programs disturbed the measurement, and repeating it did not help. `mobilenas "
    "compare RUN` measures again; until then no budget counts as met (exit status 3)."
)

DONE = 0
BROKEN_BUDGET = 3


def status_of(budgets: Iterable["BudgetRow"]) -> int:
    """Return the exit status: 3 if a budget is not met, or that is not known."""
    return DONE if all(budget.holds for budget in budgets) else BROKEN_BUDGET


def show_file(path: Path) -> None:
    """Print a JSON file unchanged."""
    echo(path.read_text(encoding="utf-8"), nl=False)


def show_json(document: object) -> None:
    """Print one JSON document."""
    echo(to_json(to_plain(document), indent=1))


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: Collection[str] = (),
) -> None:
    """Print a table: the first column and `words` are left-aligned and wrapped, others right.

    If the terminal is too narrow, each row is a few lines: the first cell, then named values.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    needed = 2 * (len(columns) - 1)
    for place, name in enumerate(columns):
        folded = not place or name in words
        parts = [part for row in cells for part in (row[place].split() if folded else [row[place]])]
        width = max(map(cell_len, (name, *parts)))
        needed += width
        table.add_column(
            name, justify="left" if folded else "right", no_wrap=not folded, min_width=width
        )
    if title:
        echo(title)
    if needed <= console.width:
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        _show_stacked(columns, cells, console.width)
    echo()


def _show_stacked(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> None:
    """Print the first cell of each row, and below it the others with their column names."""
    for first, *others in rows:
        named = [f"{name} {cell}" for name, cell in zip(columns[1:], others, strict=True)]
        # textwrap does not break at a no-break space
        short = (
            pair.replace(" ", "\N{NO-BREAK SPACE}") if len(pair) < width - 2 else pair
            for pair in named
        )
        lines = textwrap.wrap(first, width, break_on_hyphens=False)
        lines += textwrap.wrap(
            "; ".join(short),
            width,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        echo("\n".join(lines).replace("\N{NO-BREAK SPACE}", " "))


def show_formats(
    files: Mapping[str, "FileRecord"], names: Sequence[str], targets: Sequence[str]
) -> None:
    """Print these files of an export, their checks, and the targets' partitions."""
    targets = tuple(dict.fromkeys(targets))
    shown = {name: files[name] for name in dict.fromkeys(names)}
    top1 = files["onnx"].top1
    rows = (
        (
            Path(file.path).name,
            format_count(file.size_bytes),
            format_latency(file),
            f"{file.top1:.1f}",
            "-" if name == "onnx" else f"{round(top1 - file.top1, 1) + 0:.1f}",
        )
        for name, file in shown.items()
    )
    show_table("Export", ("file", "bytes", "ms", "top-1", "drop"), rows)
    _show_checks(shown.values())
    if targets:
        found = (
            (Path(file.path).name, *map(_parts, map(file.targets.get, targets)))
            for file in shown.values()
            if file.targets
        )
        show_table("Targets", ("file", *targets), found)
    notes = [
        "ms: median latency of one image ± half its 95 % interval. top-1 in percent of the test "
        "images, drop in points.",
        "reorders: nodes that onnxruntime adds here. unaligned: convolutions whose channels are "
        "not a multiple of 8. memory: peak bytes of activations. difference, agree: logits and "
        "classes against those of model.onnx, on validation images.",
    ]
    if targets:
        notes.append(
            f"{', '.join(targets)}: the parts of the graph that it runs, 1 being best, or whether "
            "it runs the file where parts are not counted."
        )
    reports = [each for file in shown.values() for each in (file.targets or {}).items()]
    caveats = [report.caveat for _, report in reports if report.caveat]
    notes += [f"{UNSTEADY}."] if any(file.unsteady for file in shown.values()) else []
    notes += [f"{caveats[0]}."] if targets and caveats else []
    said = [(name, report.note) for name, report in reports]
    notes += [f"{name}: {note}." for name, note in dict.fromkeys(said) if note and name in targets]
    for note in notes:
        echo(click.wrap_text(note, 80))
    echo()


def _show_checks(files: Iterable["FileRecord"]) -> None:
    """Print the report of `check_file` for each file, or the parity of other runtimes' files."""
    rows = []
    for file in files:
        checks, agreement = file.checks, file.checks or file.parity
        if agreement is None:  # model.onnx, if it was not requested
            continue
        found = ["-"] * 4
        if checks:
            counts = (sum(checks.operators.values()), sum(checks.reorders.values()))
            found = [*map(str, counts), str(len(checks.unaligned))]
            found.append(format_count(checks.peak_memory_bytes))
        difference = f"{agreement.max_abs_difference:.1e}"
        rows.append((Path(file.path).name, *found, difference, f"{agreement.top1_agreement:.1f}"))
    columns = ("file", "nodes", "reorders", "unaligned", "memory", "difference", "agree %")
    show_table("Checks", columns, rows)


def _parts(report: "TargetReport | None") -> str:
    """Return the number of partitions, or the verdict if there is no list."""
    if report is None:
        return "-"
    return report.verdict if report.partitions is None else str(report.partitions)


def show_rule() -> None:
    """Print the counting rule."""
    echo(click.wrap_text(f"FLOPs: {COUNTING_RULE}.", 80))


def show_result(networks: Sequence["NetworkRecord"], result: "ResultRecord") -> None:
    """Print a run's comparison, verdict, and budget check."""
    from mobilenas.report.table import summarize

    show_networks(summarize(networks))
    echo(click.wrap_text(result.verdict, 80))
    for alarm in result.alarms:
        echo(click.wrap_text(alarm, 80))
    echo()
    show_budget_check(result.budgets)
    show_rule()


def show_networks(rows: Iterable["Row"]) -> None:
    """Print the comparison; networks of several runs are marked with the run's number."""
    rows = list(rows)
    runs = dict.fromkeys(row.run for row in rows if row.run is not None)
    numbers = {run: str(number) for number, run in enumerate(runs, 1)}
    external = [row for row in rows if row.kind == "external"]
    show_table(
        "Comparison",
        ("network", *(["run"] if runs else []), "FLOPs", "params", "ONNX", "ms", "test top-1 %"),
        (
            (
                f"{row.name} (external)" if row in external else row.name,
                *([numbers.get(row.run or "", "-")] if runs else []),
                format_count(row.flops),
                format_count(row.params),
                format_count(row.size_bytes),
                format_latency(row),
                percent(row.top1_mean, row.top1_std) + "*" * row.chance,
            )
            for row in rows
        ),
    )
    for run, number in numbers.items():
        echo(f"run {number}: {run}")
    echo(click.wrap_text(_MS, 80))
    for note in dict.fromkeys(row.note for row in rows if row.note):
        echo(click.wrap_text(note, 80))
    if any(row.unsteady for row in rows):
        echo(click.wrap_text(f"{UNSTEADY}.", 80))
    if any(row.chance for row in rows):
        echo("*: no better than chance.")
    if external:
        echo(click.wrap_text(_about_external(external), 80))
    echo()


def _about_external(rows: Sequence["Row"]) -> str:
    exported = [row.name for row in rows if row.exported]
    message = "external: a file of another tool, NOT trained by this recipe."
    if len(exported) == len(rows):
        message = "external: a file that mobilenas exported, as its metadata say;"
    elif exported:
        message += f" {', '.join(exported)}: mobilenas exported it, as its metadata say;"
    if exported:
        message += " it may be trained by another recipe."
    message += " Floats that it takes are normalized as its metadata say, else as the run's images."
    if any(row.flops is None for row in rows):
        message += " FLOPs -: it cannot be counted; --json says why."
    return message


def show_sweep(runs: Iterable["SweptRun"]) -> None:
    """Print the searched network of every run beside the best MobileNet of that run."""
    rows = []
    for run in runs:
        found, best = run.best("searched"), run.best("mobilenet")
        if found is not None:
            figures = (format_count(found.flops), format_count(found.params))
            top1 = percent(found.top1_mean, found.top1_std)
            other = percent(best.top1_mean, best.top1_std) if best else "-"
            rows.append((run.name, *figures, format_latency(found), top1, other))
    columns = ("run", "FLOPs", "params", "ms", "searched %", "best MobileNet %")
    show_table("Sweep", columns, rows)
    echo(click.wrap_text(f"Test top-1 in percent. {_MS}", 80))
    echo()


def show_comparison(comparison: "Comparison") -> None:
    """Print networks of several runs and files, and differences of the searched networks."""
    from mobilenas.pipeline.comparison import sentences
    from mobilenas.report.table import summarize

    show_networks(summarize(comparison.networks))
    for sentence in sentences(comparison):
        echo(click.wrap_text(sentence, 80, subsequent_indent="  "))
    show_rule()


def show_budget_check(budgets: Iterable["BudgetRow"]) -> None:
    """Print all budgets, if any: requested, predicted, and counted or measured on the file."""
    budgets = list(budgets)
    if not budgets:
        return
    show_table(
        "Budgets",
        ("cost", "requested", "predicted", "on the file", "holds"),
        (
            (
                _UNITS.get(budget.cost, budget.cost),
                *map(format_cell, (budget.limit, budget.predicted)),
                budget.format_on_file(),
                {True: "yes", False: "NO", None: "unknown"}[budget.holds],
            )
            for budget in budgets
        ),
    )
    if any(budget.holds is None for budget in budgets):
        echo(click.wrap_text(_UNKNOWN, 80))


_UNITS = {"memory": "memory (bytes)", "latency": "latency (ms)"}


def show_arch(plain: dict[str, object]) -> None:
    """Print an arch."""
    from mobilenas.spaces.cell.arch import CellArch
    from mobilenas.spaces.channels.space import ChannelsArch
    from mobilenas.spaces.mobile.arch import MobileArch
    from mobilenas.spaces.networks import arch_from_dict

    match arch_from_dict(plain):
        case ChannelsArch() as arch:
            _show_sizes(arch)
        case CellArch() as arch:
            _show_cells(arch)
        case MobileArch() as arch:
            _show_blocks(arch)


def _show_sizes(arch: "ChannelsArch") -> None:
    """Print the channels of every group, beside the model's own."""
    own = arch.base.graph.sizes
    rows = [(name, str(own[name]), str(size)) for name, size in arch.sizes.items()]
    show_table(f"Channel sizes of {arch.base}", ("group", "model", "searched"), rows)


def _show_cells(arch: "CellArch") -> None:
    """Print size, costs, and both cells in the notation of the papers."""
    from mobilenas.cost.networks import costs
    from mobilenas.spaces.cell.genotypes import format_genotype

    exact, channels = costs(arch), (arch.cells[0].channels, arch.cells[-1].channels)
    columns = ("stem", "cells", "channels", "FLOPs", "params", "memory (bytes)")
    counts = (f"{number:,}" for number in (exact.flops, exact.params, exact.memory))
    row = (arch.stem, str(arch.layers), "{} to {}".format(*channels), *counts)
    show_table(f"Network for {arch.image_size}x{arch.image_size} images", columns, [row])
    # textwrap does not break at a no-break space, here between operation and input
    whole_edges = format_genotype(arch.genotype).replace("', ", "',\N{NO-BREAK SPACE}")
    for line in textwrap.wrap(whole_edges, 80):
        echo(line.replace("\N{NO-BREAK SPACE}", " "))
    echo()


def _show_blocks(arch: "MobileArch") -> None:
    """Print stem, blocks and head."""
    stem, head = arch.stem, arch.head
    rows: list[tuple[str, ...]] = [
        ("stem", "3", "-", str(stem.channels), str(stem.stride), "-", stem.activation)
    ]
    for index, block in enumerate(arch.blocks):
        names = ("kernel", "hidden", "out", "stride", "squeeze", "activation")
        kernel, *others = (str(getattr(block, name)) for name in names)
        kernel = f"{start}, {kernel}" if (start := block.start_kernel) else kernel
        kernel = f"{kernel} full" if block.fused else kernel
        rows.append((f"blocks.{index}", kernel, *others))
    if head.channels:
        rows.append(("head", "1", "-", str(head.channels), "1", "-", head.activation))
    if head.hidden:
        rows.append(("classifier.hidden", "-", "-", str(head.hidden), "-", "-", "-"))
    rows.append(("classifier", "-", "-", str(arch.classes), "-", "-", "-"))
    columns = ("layer", "kernel", "hidden", "out", "stride", "squeeze", "activation")
    show_table(f"Network for {arch.image_size}x{arch.image_size} images", columns, rows)


def percent(mean: float, std: float | None) -> str:
    """Format as `97.2` or `97.2 ± 0.4`."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
