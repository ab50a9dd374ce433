"""Random networks of spaces that differ in one property, trained by the recipe.

    python bench/shapes.py bench/tables/shapes-photo.jsonl --data ./photos --image-size 64 \
        --flops 3M --networks 6

Which template makes good networks: blocks a stage, growth of the widths, squeeze-excite and more
are changed one at a time, and each space is sized for the budget. What is drawn depends on the
alternative and the network's number. `bench/prior.py` learns from the table, too. A killed table
goes on where it stood; other sides and budgets of the same images are added to it. One thread.
"""

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

import torch
from common import table_lines
from explore import BLOCKS, described
from tables import trained

from mobilenas.core.files import write_jsonl
from mobilenas.core.settings import parse_count, to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import load_data
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import versions
from mobilenas.search.space import space_for
from mobilenas.spaces.mobile.template import SHAPES, Shape

ALTERNATIVES: dict[str, tuple[tuple[Shape, ...], dict[str, Any]]] = {
    "the space": (SHAPES, {}),
    "two blocks": ((Shape(blocks=2),), {}),
    "three blocks": ((Shape(blocks=3),), {}),
    "three blocks, growth 2": ((Shape(blocks=3, growth=2.0),), {}),
    "no squeeze-excite": (SHAPES, {"squeeze": "off"}),
    "no depthwise convolution at the start": (SHAPES, {"extra_depthwise": "off"}),
}
"""Shapes and options of the spaces."""


def main() -> None:
    """Train what the table lacks, and print the mean of every alternative."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--flops", type=parse_count, required=True)
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=list(ALTERNATIVES), choices=ALTERNATIVES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    request = Request(data=given.data, image_size=given.image_size, flops=given.flops)
    data = load_data(request.data_settings)
    settings, classes = request.settings(len(data.train)), len(data.classes)
    head = {
        "images": data.fingerprint,
        "training_images": len(data.train),
        "classes": classes,
        "recipe": to_plain(settings.recipe),
        "blocks": BLOCKS,
        "decisions": "alternative to the space",
        "versions": versions(),
    }
    lines = table_lines(given.table) or [head]
    if any(lines[0][name] != head[name] for name in ("images", "classes", "recipe")):
        raise SystemExit(f"{given.table} is another table")
    limits = [Budget(cost="flops", limit=given.flops)]
    usual = {"squeeze": settings.squeeze, "extra_depthwise": settings.extra_depthwise}
    budgets = {
        name: Budgets(
            space_for(
                limits,
                image_size=given.image_size,
                classes=classes,
                shapes=shapes,
                **usual | options,
            ),
            limits,
        )
        for name, (shapes, options) in ALTERNATIVES.items()
        if name in given.only
    }
    for number in range(given.networks):
        for name, kept in budgets.items():
            key = {
                "number": number,
                "image_size": given.image_size,
                "limit": given.flops,
                "seed": 0,
                "decisions": {"alternative": name},
            }
            if any(line.items() >= key.items() for line in lines[1:]):
                continue
            arch = kept.space.arch(kept.random(random.Random(f"{name}/{number}")))
            lines.append(key | described(arch) | trained(arch, data, settings.recipe, 0))
            write_jsonl(given.table, lines)
    for name in budgets:
        place = {
            "image_size": given.image_size,
            "limit": given.flops,
            "decisions": {"alternative": name},
        }
        top1 = [line["test_top1"] for line in lines[1:] if line.items() >= place.items()]
        spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
        print(f"{name}: {statistics.mean(top1):.1f} ± {spread:.1f} ({len(top1)})")


if __name__ == "__main__":
    main()
