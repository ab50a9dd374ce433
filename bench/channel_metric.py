"""Whether the layer metric is informative: its rank correlation with accuracy over random sizes.

    python bench/channel_metric.py --model bench.nets:resnet8 --data ./glyphs --image-size 16

Each of --networks random size vectors of equal FLOPs, and the uniform one, trains for --epochs; the
metric is read after the first epoch and at the end, accuracy on validation images at the end.
"""

import argparse
import json
import random
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import spearmanr

from mobilenas.channels.metric import qualities
from mobilenas.channels.start import base_of
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import DataSettings, load_data
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.train import Recipe, Trainer


def metric(trainer: Trainer) -> float:
    """Mean QC of all layers and sides."""
    found = qualities(trainer.model).values()
    return fmean((layer.in_qc + layer.out_qc) / 2 for layer in found)


def main() -> None:
    """Measure, print, and write a line a network to --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--share", type=float, default=0.5, help="of the model's FLOPs")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(
        DataSettings(source=options.data, image_size=options.image_size), NullReporter()
    )
    space = ChannelsSpace(base=base_of(options.model, data))
    limit = int(options.share * space.base.graph.flops({}))
    budgets = Budgets(space, [Budget(cost="flops", limit=limit)])
    source = random.Random(options.seed)
    vectors = [budgets.scale(space.start())]
    vectors += [budgets.random(source) for _ in range(options.networks)]
    recipe = Recipe(epochs=1).lasting(options.epochs)
    rows: list[dict[str, Any]] = []
    for sizes in vectors:
        trainer = Trainer(space.arch(sizes), data, recipe, seed=options.seed)
        trainer.run_epoch()
        early = metric(trainer)
        while trainer.epochs_done < recipe.epochs:
            trainer.run_epoch()
        late, reached = metric(trainer), trainer.evaluate(data.val).top1
        rows.append({"sizes": sizes, "early": early, "late": late, "top1": reached})
        print(json.dumps(rows[-1], allow_nan=False), flush=True)
    uniform, *drawn = rows
    top1 = [row["top1"] for row in drawn]
    print(
        f"uniform {uniform['top1']:.1f}; random {fmean(top1):.1f} ± {stdev(top1):.1f}, "
        f"best {max(top1):.1f}"
    )
    for when in ("early", "late"):
        found = spearmanr([row[when] for row in drawn], top1)
        print(f"Spearman of the {when} metric: {found.statistic:.2f} (p = {found.pvalue:.2f})")
    if options.out is not None:
        options.out.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
