"""Random networks of spaces that differ in one property, trained by the recipe.

    python bench/shapes.py bench/tables/shapes-photo.jsonl --data ./photos --image-size 64 \
        --flops 3M --networks 6

Which template makes good networks: blocks a stage, growth of the widths, squeeze-excite and more
are changed one at a time, and each space is sized for the budget. What is drawn depends on the
alternative and the network's number; `--prior` trains the networks that the prior ranks first
instead, each from another seed. `bench/prior.py` learns from the table, too. A killed table
goes on where it stood; other sides and budgets of the same images are added to it. One thread.
"""

import random
import statistics
from typing import Any

from explore import described, parser, start
from tables import trained

from mobilenas.core.files import write_jsonl
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.search.candidates import best_by_prior
from mobilenas.search.space import space_for
from mobilenas.spaces.mobile.template import SHAPES, Shape

ALTERNATIVES: dict[str, tuple[tuple[Shape, ...], dict[str, Any]]] = {
    "the space": (SHAPES, {}),
    "two blocks": ((Shape(blocks=2),), {}),
    "three blocks": ((Shape(blocks=3),), {}),
    "three blocks, growth 2": ((Shape(blocks=3, growth=2.0),), {}),
    "no squeeze-excite": (SHAPES, {"squeeze": "off"}),
    "no depthwise convolution at the start": (SHAPES, {"extra_depthwise": "off"}),
    "neither": (SHAPES, {"squeeze": "off", "extra_depthwise": "off"}),
}
"""Shapes and options of the spaces."""


def main() -> None:
    """Train what the table lacks, and print the mean of every alternative."""
    arguments = parser(__doc__.partition("\n")[0], networks=6)
    arguments.add_argument("--prior", action="store_true", help="those it ranks first instead")
    arguments.add_argument("--only", nargs="*", default=list(ALTERNATIVES), choices=ALTERNATIVES)
    given = arguments.parse_args()
    data, settings, lines = start(given, "alternative to the space")
    limits = [Budget(cost="flops", limit=given.flops)]
    usual = {"squeeze": settings.squeeze, "extra_depthwise": settings.extra_depthwise}
    budgets = {
        name: Budgets(
            space_for(
                limits,
                image_size=given.image_size,
                classes=len(data.classes),
                shapes=shapes,
                **usual | options,
            ),
            limits,
        )
        for name, (shapes, options) in ALTERNATIVES.items()
        if name in given.only
    }
    first = {
        name: best_by_prior(kept, len(data.train), 0, given.networks) if given.prior else []
        for name, kept in budgets.items()
    }
    ranked = {"prior": True} if given.prior else {}
    decided = {name: {"alternative": name} | ranked for name in budgets}
    for number in range(given.networks):
        for name, kept in budgets.items():
            seed = number if given.prior else 0
            key = {
                "number": number,
                "image_size": given.image_size,
                "limit": given.flops,
                "seed": seed,
                "decisions": decided[name],
            }
            if any(line.items() >= key.items() for line in lines[1:]):
                continue
            drawn = kept.random(random.Random(f"{name}/{number}"))
            arch = kept.space.arch(first[name][number] if given.prior else drawn)
            lines.append(key | described(arch) | trained(arch, data, settings.recipe, seed))
            write_jsonl(given.table, lines)
    for name in budgets:
        place = {
            "image_size": given.image_size,
            "limit": given.flops,
            "decisions": decided[name],
        }
        top1 = [line["test_top1"] for line in lines[1:] if line.items() >= place.items()]
        spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
        print(f"{name}: {statistics.mean(top1):.1f} ± {spread:.1f} ({len(top1)})")


if __name__ == "__main__":
    main()
