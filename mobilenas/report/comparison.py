"""Sections of the report on the result: the verdict, the budgets, and all networks side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from mobilenas.baselines import equal_time
from mobilenas.core.settings import (
    UNSTEADY,
    format_cell,
    format_count,
    format_latency,
    format_on_file,
)
from mobilenas.cost.budget import PENALTY
from mobilenas.report import page as html
from mobilenas.report.files import RunFiles
from mobilenas.report.plots import accuracy_plot
from mobilenas.report.table import Row, summarize, verdict

_COST_NAMES = {"flops": "FLOPs", "memory": "memory, bytes", "latency": "latency, ms"}
_LIMITS = {"memory": "{} bytes of activations", "latency": "{} ms"}
_TOLD = {
    "memory": "Memory depends on how a runtime allocates: the prediction is held to the limit.",
    "latency": "The profile is of another device: the predicted latency is held against the limit.",
}
"""Why a cost has no value on the file."""
_NO_BUDGETS = "There was no budget: what the found network is compared with keeps to its FLOPs."
_BUT = ", but equal-time has more epochs"
_PENALTY = (
    "The strength of the penalty decides how much of a budget is used: what the found network is "
    "compared with keeps to its FLOPs."
)


def headline(budgets: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the result in one sentence: the budgets, and what `verdict` says."""
    told = verdict(entries)
    limits = " and ".join(limit_text(budget) for budget in budgets)
    return f"With at most {limits}, {told[0].lower()}{told[1:]}" if limits else told


def limit_text(budget: Mapping[str, Any]) -> str:
    """Say a limit as the user wrote it: 300k FLOPs, 8 ms."""
    cost, limit = budget["cost"], budget["limit"]
    number = f"{limit:g}" if cost == "latency" else format_count(limit)
    return _LIMITS.get(cost, f"{{}} {_COST_NAMES.get(cost, cost)}").format(number)


def result(files: RunFiles) -> str:
    """Say what was found, how it compares, and whether the budgets hold."""
    parts = []
    rows = _budgets(files)
    if files.entries:
        parts.append(html.paragraph(headline(rows, files.entries), "verdict"))
    decided = [row["holds"] for row in rows if row.get("holds") is not None]
    if files.result and len(decided) < len(rows):
        parts.append(html.paragraph(_UNKNOWN, "bad"))
    elif decided and all(decided):
        how = "" if files.result else " by prediction; the ONNX file is not counted yet"
        parts.append(html.paragraph(f"The found network keeps every budget{how}.", "good"))
    elif decided:
        parts.append(html.paragraph("The found network does NOT keep every budget.", "bad"))
    if files.entries:
        alarms = (files.result or {}).get("alarms", ())
        parts += [html.paragraph(alarm, "bad") for alarm in alarms]
    parts.append(_budget_table(rows) if rows else html.paragraph(_NO_BUDGETS, "note"))
    if rows and files.settings.get("search", {}).get("constraint") == PENALTY:
        parts.append(html.paragraph(_PENALTY, "note"))
    if files.found is not None and files.result is None:
        parts.append(html.missing("The recount on the ONNX file", "mobilenas run --resume"))
    elif files.result is not None:
        open_ones = (row["cost"] for row in rows if row.get("measured", row["recounted"]) is None)
        parts += [html.paragraph(_TOLD[cost], "note") for cost in open_ones]
    return "\n".join(parts)


_UNKNOWN = (
    "Whether the found network keeps its latency budget is not known: other programs disturbed the "
    "measurement. `mobilenas compare RUN` measures again."
)


def _budget_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("budget", "holds", "requested", "predicted", "on the ONNX file")
    cells = (
        (
            _COST_NAMES.get(row["cost"], row["cost"]),
            {True: "yes", False: "NO", None: "not known yet"}[row.get("holds")],
            format_cell(row["limit"]),
            format_cell(row.get("predicted")),
            format_on_file(row),
        )
        for row in rows
    )
    return html.table(header, cells)


def _budgets(files: RunFiles) -> list[dict[str, Any]]:
    """From the last stage that speaks of them."""
    rows: list[dict[str, Any]] = (files.result or files.found or files.run)["budgets"]
    return rows


def comparison(files: RunFiles) -> str:
    """Show every network, as a table and against FLOPs and latency."""
    if not files.entries:
        return html.missing("compare.json", "mobilenas compare")
    rows = summarize(files.entries)
    header = (
        "network", "trained", "top-1, %", "best, %", "FLOPs", "params", "latency, ms", "ONNX, kB"
    )  # fmt: skip
    marked = [number for number, row in enumerate(rows) if row.kind == "found"]
    longer = any(row.kind == equal_time.KIND for row in rows)
    notes = [
        "Top-1 on test images, mean ± sample standard deviation where a row is of several "
        f"trainings. All were trained by one recipe{_BUT if longer else ''}. Costs of random, "
        "rival and equal-time rows are means, all others of the first.",
        *(row.note for row in rows if row.note),
    ]
    if any(row.chance for row in rows):
        notes.append("*: no better than chance.")
    if images := files.run.get("data", {}).get("counts", {}).get("test"):
        notes.append(f"There are {images:,} test images: one is {100 / images:.2g} points.")
    if any(row.unsteady for row in rows):
        notes.append(f"{UNSTEADY}.")
    if timing := (files.export or {}).get("timing"):
        scaled = timing["profile"]
        notes.append(
            f"Latency: median, {timing['provider']}, {timing['threads']} thread(s), all networks "
            "in turn on the machine named below"
            + (f", in the milliseconds of profile {scaled}." if scaled else ".")
        )
    plots = html.grid(
        html.figure(accuracy_plot(files.entries, cost, files.limits), title)
        for cost, title in (("flops", "Accuracy against FLOPs"), ("latency", "Against latency"))
    )
    table = html.table(header, map(_comparison_cells, rows), marked=marked, sortable=True)
    return table + html.paragraph(" ".join(notes), "note") + plots


def _comparison_cells(row: Row) -> tuple[object, ...]:
    spread = "" if row.top1_spread is None else f" ± {row.top1_spread:.2f}"
    return (
        row.name,
        row.networks,
        f"{row.top1_mean:.2f}{spread}{'*' * row.chance}",
        f"{row.top1_best:.2f}",
        format_count(row.flops),
        format_count(row.params),
        format_latency(vars(row)),
        f"{row.size_bytes / 1000:.1f}",
    )
