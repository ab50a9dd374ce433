"""Sections of the report on the search: over time, its finalists, its gap, its ranking."""

from markupsafe import Markup

from mobilenas.cost.networks import costs
from mobilenas.report.channels import trials_plots
from mobilenas.report.diagnostics_plots import diagnostics_plots
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render
from mobilenas.report.plots import against_plot, search_plots
from mobilenas.spaces.base import family_of
from mobilenas.spaces.networks import arch_from_dict


def search_over_time(files: RunFiles) -> Markup:
    """Show the log: curves, diagnostics, alarms."""
    epochs, settings = files.epochs, files.settings
    warmup, alarms, only = 0, tuple[str, ...](), None
    if files.trials:
        plots = trials_plots(files.trials)
    elif epochs:
        limits = files.limits or dict.fromkeys(epochs[-1].expected, 1.0)
        warmup, alarms = settings.search.warmup, tuple(epochs[-1].alarms)
        if len(epochs) > 1:
            plots = search_plots(epochs, limits, warmup) + diagnostics_plots(epochs, warmup)
        else:  # a curve of one point says nothing
            plots, only = [], epochs[0]
    else:
        return missing("search/log.jsonl", "mobilenas search")
    return render(
        "search.html",
        # arch.json has those of the finalists, too
        alarms=(files.searched and files.searched.alarms) or alarms,
        plots=plots,
        only=only,
        warmup=warmup,
        constraint=settings.search.constraint,
        seed=files.run.seed if files.run and settings.seeds > 1 else None,
        searched=files.searched,
    )


def finalists(files: RunFiles) -> Markup:
    """Show the scores of every rung."""
    if files.finalists is None:
        if files.searched is not None:
            return Markup()  # one candidate entered, so there was no round
        return missing("search/finalists.json", "mobilenas search")
    scores = {(s.arch, s.rung): s.val_top1 for s in files.finalists.scores}
    ends = {s.rung: s.epochs for s in files.finalists.scores}
    rungs = range(max(ends) + 1)
    names = [f"at epoch {ends[n]}" for n in rungs]
    candidates = []
    for number, plain in enumerate(files.finalists.archs):
        arch = arch_from_dict(plain, f"search/finalists.json: archs[{number}]")
        candidates.append((costs(arch), [scores.get((number, rung)) for rung in rungs]))
    return render(
        "finalists.html",
        candidates=candidates,
        rungs=[f"val top-1 {name}, %" for name in names],
        winner=files.finalists.winner,
    )


def _has_supernet(files: RunFiles) -> bool:
    return files.arch is None or family_of(files.arch).search is not None


def discretization_gap(files: RunFiles) -> Markup:
    """Show what the supernet loses when it becomes one network."""
    if files.searched is None:
        return missing("The discretization gap", "mobilenas search")
    if not _has_supernet(files):
        return Markup()
    return render("gap.html", gap=files.searched.discretization_gap)


def ranking_quality(files: RunFiles) -> Markup:
    """Show how well the supernet ranks networks."""
    rank = files.rank
    if rank is None:
        if not _has_supernet(files) or not files.settings.rank:
            return Markup()
        return missing("search/rank.json", "mobilenas search --rank N")
    labels = ("top-1 with the supernet's weights, %", "top-1 after own training, %")
    plot = against_plot(rank.supernet_top1, rank.trained_top1, "ranking", labels)
    return render("ranking.html", rank=rank, plot=plot)
