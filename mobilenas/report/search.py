"""Sections of the report on the search: over time, its finalists, its gap, its ranking."""

from mobilenas.core.settings import counted, format_count
from mobilenas.cost.networks import costs
from mobilenas.report import page as html
from mobilenas.report.channels import trials_plots
from mobilenas.report.diagnostics_plots import diagnostics_plots
from mobilenas.report.files import RunFiles
from mobilenas.report.plots import against_plot, search_plots
from mobilenas.spaces.base import family_of
from mobilenas.spaces.networks import arch_from_dict

_NONE = "-"


def search_over_time(files: RunFiles) -> str:
    """Show the log: curves, diagnostics, alarms."""
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
    raised = files.log[-1].get("alarms", ())
    if files.found is not None:  # it has those of the finalists, too
        raised = files.found.get("alarms", raised)
    alarms = "".join(html.paragraph(f"Alarm: {alarm}.", "bad") for alarm in raised)
    figures = html.grid(html.figure(svg, title) for title, svg in plots)
    return alarms + figures + html.paragraph(" ".join(notes), "note")


def finalists(files: RunFiles) -> str:
    """Show the scores of every rung."""
    if files.finalists is None:
        if files.found is not None:
            return ""  # one candidate entered, so there was no round
        return html.missing("search/finalists.json", "mobilenas search")
    scores = {(s["arch"], s["rung"]): s["val_top1"] for s in files.finalists["scores"]}
    rungs = range(max(rung for _, rung in scores) + 1)
    # files of older releases do not say after how many epochs
    ends = {s["rung"]: s.get("epochs") for s in files.finalists["scores"]}
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
    names = [f"at epoch {ends[n]}" if ends[n] else f"in rung {n + 1}" for n in rungs]
    trained = [f"val top-1 {name}, %" for name in names]
    told = "Trained on training images, compared on validation images; the best go on."
    table = html.table(("candidate", "FLOPs", "params", *trained), rows, marked=[winner])
    return table + html.paragraph(told, "note")


def _has_supernet(files: RunFiles) -> bool:
    return files.arch is None or family_of(files.arch).search is not None


def discretization_gap(files: RunFiles) -> str:
    """Show what the supernet loses when it becomes one network."""
    if files.found is None:
        return html.missing("The discretization gap", "mobilenas search")
    if not _has_supernet(files):
        return ""
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


def ranking_quality(files: RunFiles) -> str:
    """Show how well the supernet ranks networks."""
    if files.rank is None:
        if not _has_supernet(files) or not files.settings.get("rank"):
            return ""
        return html.missing("search/rank.json", "mobilenas search --rank N")
    rank = files.rank
    header = ("ranked by", "Spearman", "Kendall", "regret, points", "pick over mean, points")
    keys = ("spearman", "kendall", "regret", "pick_over_mean")
    rows = [
        (label, *(f"{rank[name][key]:.2f}" for key in keys))
        for label, name in (("supernet accuracy", "supernet"), ("alphas", "alphas"))
    ]
    told = (
        f"Over {rank['networks']} random networks of the budget, each trained "
        f"{counted(rank['epochs'], 'epoch')}. Regret: what the best of them has over the one that "
        "would be picked."
    )
    labels = ("top-1 with the supernet's weights, %", "top-1 after own training, %")
    plot = against_plot(rank["supernet_top1"], rank["trained_top1"], "ranking", labels)
    caption = "Each mark is one network"
    return html.table(header, rows) + html.paragraph(told, "note") + html.figure(plot, caption)
