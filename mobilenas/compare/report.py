"""report.html: what a run found, how it compares, how to make it again; read from the folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilenas.compare import report_page as html
from mobilenas.compare.cell_drawing import draw_cell
from mobilenas.compare.diagnostics_plots import diagnostics_plots
from mobilenas.compare.report_files import RunFiles
from mobilenas.compare.report_plots import accuracy_plot, arch_drawing, ranking_plot, search_plots
from mobilenas.compare.report_widths import trials_plots, widths_section
from mobilenas.compare.table import Row, summarize, verdict
from mobilenas.config import COUNTING_RULE, format_count
from mobilenas.cost import costs, layer_costs
from mobilenas.errors import FileError
from mobilenas.files import write_text
from mobilenas.spaces import Cell, CellArch, WidthsArch, arch_from_dict, format_genotype

_MOST_CLASSES = 50
_NONE = "-"
_COST_NAMES = {"flops": "FLOPs", "memory": "memory, bytes", "latency": "latency, ms"}
_TOLD = {
    "memory": "Memory depends on how a runtime allocates: the prediction is held to the limit.",
    "latency": "The profile is of another device: the predicted latency is held against the limit.",
}
"""Why a cost has no value on the file."""
_NO_BUDGETS = "There was no budget: what the found network is compared with keeps to its FLOPs."


def write_report(folder: Path, path: Path) -> None:
    """Write the report of the run in `folder` to `path`: one file that needs no network.

    Sections whose stage is not done name the command that does it. FileError where a file of the
    folder is not what the stages write.
    """
    files = RunFiles(folder=folder)
    if not files.run and not files.found:
        raise FileError(f"{folder} holds no run: there is neither run.json nor arch.json")
    parts = []
    for title, show in _SECTIONS:
        try:
            body = show(files)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise FileError(f"{folder}: cannot show {title.lower()!r} ({what})") from error
        if body:  # empty: it means nothing for the space of the run
            parts.append(html.section(title, body) if title != _TOP else body)
    source = files.run.get("data", {}).get("source", folder.name)
    write_text(path, html.page(f"mobilenas report: {source}", "\n".join(parts)))


def _verdict(files: RunFiles) -> str:
    parts = []
    rows = _budgets(files)
    decided = [row["holds"] for row in rows if row.get("holds") is not None]
    if decided and all(decided):
        how = "" if files.result else " by prediction; the ONNX file is not counted yet"
        parts.append(html.paragraph(f"The found network keeps every budget{how}.", "good"))
    elif decided:
        parts.append(html.paragraph("The found network does NOT keep every budget.", "bad"))
    if files.entries:
        parts.append(html.paragraph(verdict(files.entries), "verdict"))
    else:
        parts.append(html.missing("The comparison with other networks", "mobilenas compare"))
    parts.append(_budget_table(rows) if rows else html.paragraph(_NO_BUDGETS, "note"))
    if files.found is None:
        parts.append(html.missing("The found network", "mobilenas search"))
    elif files.result is None:
        parts.append(html.missing("The recount on the ONNX file", "mobilenas run --resume"))
    else:
        open_ones = (row["cost"] for row in rows if row.get("measured", row["recounted"]) is None)
        parts += [html.paragraph(_TOLD[cost], "note") for cost in open_ones]
    return "\n".join(parts)


def _budget_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("budget", "holds", "requested", "predicted", "on the ONNX file")
    cells = (
        (
            _COST_NAMES.get(row["cost"], row["cost"]),
            {True: "yes", False: "NO", None: "not known yet"}[row.get("holds")],
            _number(row["limit"]),
            _number(row.get("predicted")),
            _number(row.get("measured", row.get("recounted"))),
        )
        for row in rows
    )
    return html.table(header, cells)


def _budgets(files: RunFiles) -> list[dict[str, Any]]:
    """From the last stage that speaks of them."""
    rows: list[dict[str, Any]] = (files.result or files.found or files.run)["budgets"]
    return rows


def _comparison(files: RunFiles) -> str:
    if not files.entries:
        return html.missing("compare.json", "mobilenas compare")
    rows = summarize(files.entries)
    header = (
        "network", "trained", "top-1, %", "best, %", "FLOPs", "params", "latency, ms", "ONNX, kB"
    )  # fmt: skip
    marked = [number for number, row in enumerate(rows) if row.kind == "found"]
    notes = [
        "Top-1 on test images, mean ± sample standard deviation where a row is of several "
        "trainings. All were trained by one recipe. Costs of random and rival rows are means, "
        "all others of the first."
    ]
    if images := files.run.get("data", {}).get("counts", {}).get("test"):
        notes.append(f"There are {images:,} test images: one is {100 / images:.2g} points.")
    if timing := (files.export or {}).get("timing"):
        scaled = timing["profile"]
        notes.append(
            f"Latency: median, {timing['provider']}, {timing['threads']} thread(s), all networks "
            "in turn on the machine named below"
            + (f", in the milliseconds of profile {scaled}." if scaled else ".")
        )
    plot = accuracy_plot(files.entries, files.limits.get("flops"))
    return (
        html.table(header, map(_comparison_cells, rows), marked=marked)
        + html.paragraph(" ".join(notes), "note")
        + html.figure(plot, "Accuracy against FLOPs, every network")
    )


def _comparison_cells(row: Row) -> tuple[object, ...]:
    spread = "" if row.top1_spread is None else f" ± {row.top1_spread:.2f}"
    return (
        row.name,
        row.networks,
        f"{row.top1_mean:.2f}{spread}",
        f"{row.top1_best:.2f}",
        format_count(row.flops),
        format_count(row.params),
        f"{row.latency_ms:.3f}",
        f"{row.size_bytes / 1000:.1f}",
    )


def _network(files: RunFiles) -> str:
    if files.arch is None:
        return html.missing("arch.json", "mobilenas search")
    if isinstance(files.arch, CellArch):
        return _cells(files.arch)
    if isinstance(files.arch, WidthsArch):
        return widths_section(files.arch)
    caption = (
        "Height: output channels. Colour: kernel. Expansion: hidden channels over input channels. "
        "SE: squeeze-excite. ÷2: stride. Stem and head in grey; the head is not to scale."
    )
    return html.figure(arch_drawing(files.arch), caption, wide=True)


def _cells(arch: CellArch) -> str:
    reductions = " and ".join(str(number + 1) for number in sorted(arch.reductions))
    first, last = arch.places[0].channels, arch.places[-1].channels
    size = (
        f"{arch.layers} cells behind the {arch.stem} stem; a node has {first} channels in the "
        f"first and {last} in the last. Reductions: {reductions}."
    )
    cells = (("Normal cell", arch.genotype.normal), ("Reduction cell", arch.genotype.reduce))
    figures = "".join(
        html.figure(draw_cell(cell, title), f"{title}. {_cell_caption(cell)}", wide=True)
        for title, cell in cells
    )
    copied = f"<pre>{html.text(format_genotype(arch.genotype))}</pre>"
    return html.paragraph(size) + figures + html.paragraph("Both, to copy:", "note") + copied


def _cell_caption(cell: Cell) -> str:
    told = "A node is the sum of its edges, the output c_k the concatenation of nodes."
    if not all(cell.nodes):
        told += " An empty node is not there: the concatenation leaves it out."
    return told


def _search(files: RunFiles) -> str:
    if not files.log:
        return html.missing("search/log.jsonl", "mobilenas search")
    settings = files.settings.get("search", {})
    notes = []
    if "trial" in files.log[0]:
        plots, warmup = trials_plots(files.log), 0
    else:
        limits = files.limits or dict.fromkeys(files.log[-1]["expected"], 1)
        warmup = settings.get("warmup", 0)
        plots = search_plots(files.log, limits, warmup) + diagnostics_plots(files.log, warmup)
    if warmup:
        notes.append("Shaded: warm-up, which trains weights only.")
    if (constraint := settings.get("constraint", "lagrangian")) != "lagrangian":
        notes.append(f"The constraint is {constraint}, which has no multipliers.")
    if files.settings.get("seeds", 1) > 1:
        notes.append(f"This is the search of seed {files.run['seed']}; the others are in repeats/.")
    if files.found is None:
        notes.append("The search is not finished: go on with mobilenas search --resume.")
    else:
        spent = ", ".join(f"{name} {s:,.0f} s" for name, s in files.found["seconds"].items())
        notes.append(f"Time: {spent}.")
    alarms = "".join(
        html.paragraph(f"Alarm of the last epoch: {alarm}.", "bad")
        for alarm in files.log[-1].get("alarms", ())
    )
    figures = html.grid(html.figure(svg, title) for title, svg in plots)
    return alarms + figures + html.paragraph(" ".join(notes), "note")


def _finalists(files: RunFiles) -> str:
    if files.finalists is None:
        if files.found is not None:
            return html.paragraph("One candidate entered, so there was no round of finalists.")
        return html.missing("search/finalists.json", "mobilenas search")
    scores = {(s["arch"], s["rung"]): s["val_top1"] for s in files.finalists["scores"]}
    rungs = range(max(rung for _, rung in scores) + 1)
    epochs = files.settings.get("finalists", {}).get("epochs", 1)
    winner = files.finalists["winner"]
    rows = []
    for number, plain in enumerate(files.finalists["archs"]):
        exact = costs(arch_from_dict(plain, f"search/finalists.json: archs[{number}]"))
        reached = [scores.get((number, rung)) for rung in rungs]
        name = f"{number + 1}{' (wins)' if number == winner else ''}"
        rows.append(
            (
                name,
                format_count(exact.flops),
                format_count(exact.params),
                *(_NONE if top1 is None else f"{top1:.2f}" for top1 in reached),
            )
        )
    trained = [f"val top-1 at epoch {(rung + 1) * epochs}, %" for rung in rungs]
    told = "Trained from scratch on training images, compared on validation images; the best go on."
    table = html.table(("candidate", "FLOPs", "params", *trained), rows, marked=[winner])
    return table + html.paragraph(told, "note")


def _gap(files: RunFiles) -> str:
    if files.found is None:
        return html.missing("The discretization gap", "mobilenas search")
    if isinstance(files.arch, WidthsArch):
        return ""  # there is no supernet
    gap = files.found["discretization_gap"]
    points = gap["points"]
    change = "lost" if points >= 0 else "gained"
    told = (
        f"{abs(points):.2f} points of validation top-1 are {change} when the supernet's mixture "
        "becomes the first candidate, with the supernet's weights and re-estimated batch-norm "
        "statistics."
    )
    # a chain has no edges: there one operation for each block is an arch
    labels = {"supernet": "supernet", "operations_discrete": "one arch"}
    if "edges_discrete" in gap:
        labels |= {"operations_discrete": "operations discrete", "edges_discrete": "edges discrete"}
    rows = [
        (
            label,
            *(f"{gap[key][when]:.2f}" for when in ("before_reestimation", "after_reestimation")),
        )
        for key, label in labels.items()
    ]
    header = ("validation top-1, %", "before re-estimation", "after re-estimation")
    return html.paragraph(told) + html.table(header, rows)


def _ranking(files: RunFiles) -> str:
    if files.rank is None:
        return html.missing("search/rank.json", "mobilenas search --rank N")
    rank = files.rank
    header = ("ranked by", "Spearman", "Kendall", "regret, points", "pick over mean, points")
    keys = ("spearman", "kendall", "regret", "pick_over_mean")
    rows = [
        (label, *(f"{rank[name][key]:.2f}" for key in keys))
        for label, name in (("supernet accuracy", "supernet"), ("alphas", "alphas"))
    ]
    told = (
        f"Over {rank['networks']} random networks of the budget, each trained {rank['epochs']} "
        "epochs. Regret: what the best of them has over the one that would be picked."
    )
    plot = ranking_plot(rank["supernet_top1"], rank["trained_top1"])
    caption = "Each mark is one network"
    return html.table(header, rows) + html.paragraph(told, "note") + html.figure(plot, caption)


def _layers(files: RunFiles) -> str:
    if files.arch is None:
        return html.missing("arch.json", "mobilenas search")
    layers, exact = layer_costs(files.arch), costs(files.arch)
    rows: list[Sequence[object]] = [
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
    rows.append((*whole, f"{exact.memory / 1000:.1f}"))
    header = ("layer", "output", "FLOPs", "% of FLOPs", "params", "memory, kB")
    told = "Memory: activations alive while the layer runs, float32; the network's is the largest."
    table = html.table(header, rows, marked=[len(layers)])
    return html.details(f"{len(layers)} layers", table) + html.paragraph(told, "note")


def _exported(files: RunFiles) -> str:
    if files.export is None:
        return html.missing("export/export.json", "mobilenas export")
    rows = [
        (
            file["path"],
            f"{file['top1']:.2f}",
            f"{file['size_bytes'] / 1000:.1f}",
            f"{file['latency_ms']:.3f}",
        )
        for file in files.export["files"].values()
    ]
    parity = files.export["parity"]
    told = (
        f"Against the trained module on {parity['images']} images: the same class for "
        f"{parity['top1_agreement']:.2f} %, largest difference of a logit "
        f"{parity['max_abs_difference']:.1e}."
    )
    header = ("file", "test top-1, %", "size, kB", "latency, ms")
    return html.table(header, rows) + html.paragraph(told, "note")


def _reproduce(files: RunFiles) -> str:
    if not files.run:
        return html.missing("run.json", "mobilenas run")
    run, settings = files.run, files.settings
    data: Mapping[str, Any] = run["data"]
    seeds = range(run["seed"], run["seed"] + settings.get("seeds", 1))
    classes, more = data["classes"][:_MOST_CLASSES], len(data["classes"]) - _MOST_CLASSES
    named = ", ".join(classes) + (f" and {more} more" if more > 0 else "")
    counts = ", ".join(f"{count:,} {split}" for split, count in data["counts"].items())
    pairs = [
        ("seeds", ", ".join(map(str, seeds))),
        ("data", data["source"]),
        ("images", f"{counts}; {data['image_size']} x {data['image_size']} pixels"),
        ("split rule", data["split_rule"]),
        ("fingerprint", data["fingerprint"]),
        ("classes", f"{len(data['classes'])}: {named}"),
        ("machine", ", ".join(str(value) for value in run["machine"].values() if value)),
        ("versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
    ]
    every = html.text(json.dumps(settings, indent=1, ensure_ascii=False))
    return (
        f"<pre>{html.text(run['command'])}</pre>"
        + html.definitions(pairs)
        + html.details("All settings", f"<pre>{every}</pre>")
    )


def _counting(_: RunFiles) -> str:
    return html.paragraph(f"{COUNTING_RULE[0].upper()}{COUNTING_RULE[1:]}.")


_TOP = "Verdict"
_SECTIONS: tuple[tuple[str, Callable[[RunFiles], str]], ...] = (
    (_TOP, _verdict),
    ("Comparison", _comparison),
    ("The found network", _network),
    ("Exported files", _exported),
    ("The search over time", _search),
    ("Finalists", _finalists),
    ("Discretization gap", _gap),
    ("Ranking quality", _ranking),
    ("Cost of each layer", _layers),
    ("How to reproduce", _reproduce),
    ("How FLOPs are counted", _counting),
)


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
