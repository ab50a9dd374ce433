"""What each decision is worth, from networks that were drawn around good ones and trained.

    python bench/effects.py bench/tables/explored.jsonl

An additive model of test top-1 (ridge regression on the options of every decision, the mean of each
combination of image size and budget taken off): points of an option over the mean, and in brackets
how many networks have it. First of all networks, then of each combination.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import table_lines

PENALTY = 4.0


def options(line: dict[str, Any]) -> dict[str, str]:
    """Return the option of every decision."""
    drawn = dict(line["decisions"])
    blocks = len(line["blocks"])
    levels = f"{'-'.join(map(str, drawn.pop('levels')))}, stem's stride {line['stem'][1]}"
    return {
        "halvings at the ends of stages": levels,
        "blocks": f"{blocks - (blocks + 1) % 2} to {blocks + blocks % 2}",
        "stem": str(line["stem"][0]),
        "head": str(line["head"]),
    } | {name: str(option) for name, option in drawn.items()}


def show(lines: list[dict[str, Any]]) -> None:
    """Print the effects of all options."""
    rows = [options(line) for line in lines]
    columns = [(name, option) for name in rows[0] for option in sorted({row[name] for row in rows})]
    x = np.array([[row[name] == option for name, option in columns] for row in rows], dtype=float)
    counts = x.sum(0)
    x -= x.mean(0)
    top1 = np.array([line["test_top1"] for line in lines])
    groups = np.array([f"{line['image_size']} {line['limit']}" for line in lines])
    for group in np.unique(groups):
        top1[groups == group] -= top1[groups == group].mean()
    effects = np.linalg.solve(x.T @ x + PENALTY * np.eye(len(columns)), x.T @ top1)
    for name in rows[0]:
        told = [
            f"{option} {effect:+.1f} ({count:.0f})"
            for (decision, option), effect, count in zip(columns, effects, counts, strict=True)
            if decision == name
        ]
        print(f"  {name}: {'; '.join(told)}")


def main() -> None:
    """Print all networks' effects and those of each combination."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    _, *lines = table_lines(parser.parse_args().table)
    drawn = [line for line in lines if "decisions" in line]
    print(f"all: {len(drawn)} networks")
    show(drawn)
    for size, limit in sorted({(line["image_size"], line["limit"]) for line in drawn}):
        own = [line for line in drawn if (line["image_size"], line["limit"]) == (size, limit)]
        print(f"{size}x{size}, {limit} FLOPs: {len(own)} networks")
        show(own)


if __name__ == "__main__":
    main()
