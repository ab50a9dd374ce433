"""Sections of the report on the search: epochs, finalists, discretization gap, ranking."""

from collections.abc import Sequence

from markupsafe import Markup

from mobilenas.core.records import Json
from mobilenas.cost.networks import costs
from mobilenas.report.channels import trials_plots
from mobilenas.report.diagnostics_plots import diagnostics_plots
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render
from mobilenas.report.plots import against_plot, search_plots
from mobilenas.search.records import Score
from mobilenas.spaces.base import Arch, family_of
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
        else:  # no curves with a single point
            plots, only = [], epochs[0]
    else:
        return missing("search/log.jsonl", "mobilenas search")
    return render(
        "search.html",
        # arch.json also has those of the finalists
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
            return Markup()  # with one candidate there are no finalists
        return missing("search/finalists.json", "mobilenas search")
    archs = _archs(files.finalists.archs, "search/finalists.json")
    numbers = [str(number + 1) for number in range(len(archs))]
    scores, winner = files.finalists.scores, files.finalists.winner
    return _rounds("candidate", numbers, archs, scores, winner)


def image_size(files: RunFiles) -> Markup:
    """Show the networks by which the image size was chosen, if it was searched."""
    found = files.image_size
    if found is None or found.winner is None or not found.scores:
        return Markup()
    archs = _archs(found.archs, "search/image-size.json")
    return _rounds("images", found.names, archs, found.scores, found.winner)


def _archs(plain: Sequence[Json], source: str) -> list[Arch]:
    return [arch_from_dict(one, f"{source}: archs[{number}]") for number, one in enumerate(plain)]


def _rounds(
    title: str, names: Sequence[str], archs: Sequence[Arch], scores: Sequence[Score], winner: int
) -> Markup:
    """Show the top-1 of networks in every rung."""
    reached = {(s.arch, s.rung): s.val_top1 for s in scores}
    ends = {s.rung: s.epochs for s in scores}
    rungs = range(max(ends) + 1)
    rows = [
        (name, costs(arch), [reached.get((number, rung)) for rung in rungs])
        for number, (name, arch) in enumerate(zip(names, archs, strict=True))
    ]
    titles = [f"val top-1 at epoch {ends[n]}, %" for n in rungs]
    return render("finalists.html", title=title, rows=rows, rungs=titles, winner=winner)


def _has_supernet(files: RunFiles) -> bool:
    return files.arch is None or family_of(files.arch).search is not None


def discretization_gap(files: RunFiles) -> Markup:
    """Show the accuracy that the supernet loses in discretization."""
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
