"""Sections of the report on the result: verdict, budgets, and comparison of all networks."""

from collections.abc import Sequence

from markupsafe import Markup

from mobilenas.baselines.records import NetworkRecord
from mobilenas.core.records import BudgetRow
from mobilenas.core.settings import format_count
from mobilenas.cost.budget import PENALTY
from mobilenas.report.files import RunFiles
from mobilenas.report.page import missing, render
from mobilenas.report.plots import accuracy_plot
from mobilenas.report.table import summarize, verdict

_COST_NAMES = {"flops": "FLOPs", "memory": "memory, bytes", "latency": "latency, ms"}
_LIMITS = {"memory": "{} bytes of activations", "latency": "{} ms"}


def headline(budgets: Sequence[BudgetRow], entries: Sequence[NetworkRecord]) -> str:
    """Return the result in one sentence: the budgets, and the `verdict`."""
    sentence = verdict(entries)
    limits = " and ".join(limit_text(budget) for budget in budgets)
    return f"With at most {limits}, {sentence[0].lower()}{sentence[1:]}" if limits else sentence


def limit_text(budget: BudgetRow) -> str:
    """Format a limit as the user wrote it: 300k FLOPs, 8 ms."""
    cost, limit = budget.cost, budget.limit
    number = f"{limit:g}" if cost == "latency" else format_count(limit)
    return _LIMITS.get(cost, f"{{}} {_COST_NAMES.get(cost, cost)}").format(number)


def result(files: RunFiles) -> Markup:
    """Show the searched network's result, its comparison, and whether it meets the budgets."""
    budgets = _budgets(files)
    recounted = files.result is not None
    return render(
        "result.html",
        headline=headline(budgets, files.entries) if files.entries else "",
        budgets=budgets,
        names=_COST_NAMES,
        holds=[budget.holds for budget in budgets],
        recounted=recounted,
        alarms=files.result.alarms if files.result and files.entries else (),
        penalty=budgets and files.settings.search.constraint == PENALTY,
        searched=files.searched is not None,
        predicted_only=[budget.cost for budget in budgets if recounted and budget.on_file is None],
    )


def _budgets(files: RunFiles) -> Sequence[BudgetRow]:
    """Return the budgets from the last stage that has written them."""
    last = files.result or files.searched or files.run
    return last.budgets if last else ()


def comparison(files: RunFiles) -> Markup:
    """Show all networks in a table, and their accuracy against FLOPs and latency."""
    if not files.entries:
        return missing("compare.json", "mobilenas compare")
    titles = {"flops": "Accuracy against FLOPs", "latency": "Against latency"}
    return render(
        "comparison.html",
        rows=summarize(files.entries),
        two_recipes=files.settings.scratch_recipe is not None,
        test_images=files.run.data.counts.get("test") if files.run else None,
        timing=files.export.timing if files.export else None,
        plots=[
            (title, accuracy_plot(files.entries, cost, files.limits))
            for cost, title in titles.items()
        ],
    )
