"""What searches that differ in method or in one part know of the networks of a table.

    python bench/claims.py bench/tables/glyphs-16-300k.jsonl --data ./glyphs searches/*

The searches are in the table's space; each folder is called by its kind and its seed (`adarts-0`).
A row a kind, mean and deviation over its seeds: Kendall's tau with test top-1, and what the network
put first among ten random ones is over the mean of all, in points, of the alphas' log probability
and of top-1 with the supernet's weights; the discretization gap in points; blocks of the found
network; processor seconds of the supernet in final trainings. No network is trained here.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from ranking import Table, of_search, picked, read_table
from scipy.stats import kendalltau

from mobilenas.core.files import read_json
from mobilenas.data import DataSettings, ImageData, load_data


def figures(folder: Path, table: Table, data: ImageData, final: float) -> dict[str, float]:
    """Return what is told of one search."""
    alphas, shared, seconds = of_search(folder, table.choices, data)
    found: dict[str, Any] = read_json(folder / "arch.json")
    return {
        "alphas tau": float(kendalltau(alphas, table.truth).statistic),
        "alphas over": picked(alphas, table.truth)[0],
        "supernet tau": float(kendalltau(shared, table.truth).statistic),
        "supernet over": picked(shared, table.truth)[0],
        "gap": found["discretization_gap"]["points"],
        "blocks": len(found["arch"]["blocks"]),
        "cost": seconds / final,
    }


def main() -> None:
    """Print a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("searches", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = read_table(given.table)
    data = load_data(DataSettings(source=given.data, image_size=table.image_size))
    final = table.final_seconds(data)
    kinds = defaultdict[str, list[dict[str, float]]](list)
    for folder in given.searches:
        kinds[folder.name.rpartition("-")[0]].append(figures(folder, table, data, final))
    for kind, seeds in kinds.items():
        print(f"{kind} ({len(seeds)})", end="")
        for name in seeds[0]:
            values = [each[name] for each in seeds]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            print(f"; {name} {statistics.mean(values):.2f}{spread}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
