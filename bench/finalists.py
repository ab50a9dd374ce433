"""What finalists are worth: how many, when they are compared, and by what.

    python bench/finalists.py bench/tables/random-*.jsonl

Finalists are drawn from the networks of a table again and again, and compared after the epochs that
the table has. Columns: the price in final trainings (epochs of those that lose), then the winner's
test top-1 over the mean of all, in points, by validation top-1, by training loss, and by both.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import table_lines
from numpy.typing import NDArray
from scipy.stats import rankdata

DRAWS = 4000
Rows = NDArray[np.float64]
Rungs = tuple[tuple[int, int], ...]
"""How many are compared, and after how many epochs."""
SCHEDULES: tuple[Rungs, ...] = (
    ((2, 5),),
    ((2, 8),),
    ((3, 3), (2, 5)),
    ((3, 3), (2, 8)),
    ((3, 8),),
    ((4, 2), (2, 5)),
    ((4, 3),),
    ((4, 3), (2, 5)),
    ((4, 3), (2, 8)),
    ((5, 2), (2, 6)),
    ((6, 2), (2, 6)),
    ((6, 3), (2, 5)),
    ((6, 3), (2, 8)),
)
MEASURES: dict[str, Callable[[Rows, Rows], Rows]] = {
    "top-1": lambda top1, loss: -top1,
    "loss": lambda top1, loss: loss,
    "both": lambda top1, loss: rankdata(-top1) + rankdata(loss),
}
"""What is lowest for the best."""


def price(rungs: Rungs, epochs: int) -> float:
    """Return final trainings spent on networks that do not win."""
    trained = sum(size * (end - start) for (_, start), (size, end) in pairwise([(0, 0), *rungs]))
    return (trained - rungs[-1][1]) / epochs


def gain(top1: Rows, losses: Rows, test: Rows, rungs: Rungs, measure: str) -> float:
    """top1, losses: [N, epochs]; test: [N] -> points of the winner over the mean of all."""
    source, won = np.random.default_rng(0), []
    for _ in range(DRAWS):
        alive = source.choice(len(test), rungs[0][0], replace=False)
        for size, end in rungs:
            alive = alive[:size]
            behind = MEASURES[measure](top1[alive, end - 1], losses[alive, end - 1])
            alive = alive[np.argsort(behind, kind="stable")]
        won.append(test[alive[0]])
    return float(np.mean(won) - test.mean())


def main() -> None:
    """Print a line a schedule for each table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    for table in parser.parse_args().tables:
        lines = [line for line in table_lines(table)[1:] if line["seed"] == 0]
        top1, losses, test = (
            np.array([line[name] for line in lines]) for name in ("val_top1", "losses", "test_top1")
        )
        print(f"{table.stem}: {len(test)} networks, deviation {test.std(ddof=1):.2f}")
        for rungs in SCHEDULES:
            gains = "".join(f"{gain(top1, losses, test, rungs, name):8.2f}" for name in MEASURES)
            shown = ", then ".join(f"{size} after {end}" for size, end in rungs)
            print(f"{shown:26} {price(rungs, top1.shape[1]):6.2f} {gains}")


if __name__ == "__main__":
    main()
