"""How well searches that differ in method or in one part rank the networks of a table.

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

import torch
from ranking import Table, picked, read_table, searcher_of, supernet_seconds
from scipy.stats import kendalltau

from mobilenas.core.records import read_record
from mobilenas.core.settings import from_plain
from mobilenas.data import DataSettings, ImageData, load_data
from mobilenas.search.evaluation import supernet_top1
from mobilenas.search.gap import discretization_gap
from mobilenas.search.rank import alpha_score
from mobilenas.search.records import CandidatesRecord


def figures(folder: Path, table: Table, data: ImageData, final: float) -> dict[str, float]:
    """Return what is told of one search."""
    searcher, choices = searcher_of(folder, data), table.choices
    alphas = [alpha_score(searcher, choice) for choice in choices]
    shared = supernet_top1(searcher, choices, data.val)
    found = read_record(folder / "search/candidates.json", CandidatesRecord).choices[0]
    choice = from_plain(type(choices[0]), found, "choice")
    return {
        "alphas tau": float(kendalltau(alphas, table.truth).statistic),
        "alphas over": picked(alphas, table.truth)[0],
        "supernet tau": float(kendalltau(shared, table.truth).statistic),
        "supernet over": picked(shared, table.truth)[0],
        "gap": discretization_gap(searcher, choice).points,
        "blocks": len(searcher.space.arch(choice).blocks),
        "cost": supernet_seconds(folder) / final,
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
