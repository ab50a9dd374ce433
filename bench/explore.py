"""Networks with every decision that a space could have drawn at random, trained by the recipe.

    python bench/explore.py bench/tables/photo.jsonl --data ./photos --image-size 64 --flops 3M \
        --networks 120

What a good space is for such images: where they are halved, blocks a stage, growth of the widths,
expansion and more are drawn, and the widths made as large as the budget allows. `bench/effects.py`
says what each decision is worth, and `bench/prior.py` learns from the table, too. What is drawn
depends on the table's name and the network's number. A killed table
goes on where it stood; other sides and budgets of the same images are added to it. One thread.
"""

import argparse
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import Line, table_lines
from tables import trained

from mobilenas.core.files import write_jsonl
from mobilenas.core.settings import parse_count, to_plain
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, load_data
from mobilenas.nn import squeeze_channels
from mobilenas.pipeline.request import Request
from mobilenas.pipeline.run_folder import versions
from mobilenas.pipeline.settings import RunSettings
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem

ACTIVATION, STEM_STRIDE, WIDTH, MULTIPLE = "hard_swish", 2, 16, 4
LEVELS = (
    (1, 2, 3, 4),
    (1, 2, 3, 3, 4),
    (1, 2, 2, 3, 4),
    (2, 3, 4),
    (2, 2, 3, 4),
    (2, 3, 3, 4),
    (1, 1, 2, 3, 4),
    (1, 2, 3),
)
"""How often the image has been halved at the end of every stage."""
DECISIONS = ("levels", "growth", "first", "expansion", "squeeze", "start", "kernel")
"""That are told of a network beside its blocks."""
STEPS = 160
"""Widths that are tried, from a tenth to about ten times what was drawn."""
BLOCKS = (
    "kernel, hidden, out, stride, squeeze; a sixth number is the kernel of a depthwise "
    "convolution before the expansion"
)
"""What the numbers of a table's blocks are."""
MIN_USED = 0.85
"""Of the budget: what leaves more is no network of it."""


def draw(source: random.Random) -> dict[str, Any]:
    """Draw every decision but the widths' common factor."""
    levels = source.choice(LEVELS)
    drawn: dict[str, Any] = {
        "levels": levels,
        "depths": [source.randint(1, 4) for _ in levels],
        "stem": source.choice((8, 16, 24)),
        "growth": source.choice((1.0, 1.25, 1.5, 1.75)),
        "first": source.choice((0.5, 1.0, 1.5)),
        "expansion": source.choice((2, 3, 4, 6)),
        "squeeze": source.choice(("none", "all", "late")),
        "start": source.choice((0, 3)),
        "kernel": source.choice(("3", "5", "3-5")),
        "head": source.choice((128, 256, 384, 512)),
    }
    if source.random() < 0.5:
        drawn["depths"][0] = 1
    return drawn


def network(drawn: dict[str, Any], width: float, image_size: int, classes: int) -> MobileArch:
    """Return the network of some decisions with all widths times `width`."""
    before, blocks = drawn["stem"], list[Block]()
    stages = len(drawn["levels"])
    for number, (level, after) in enumerate(pairwise((1, *drawn["levels"]))):
        out = WIDTH * drawn["first"] * drawn["growth"] ** number * width
        out = max(8, round(out / MULTIPLE) * MULTIPLE)
        late = number >= stages - 2
        for index in range(drawn["depths"][number]):
            hidden = before * (drawn["expansion"] if blocks else 1)
            squeezed = drawn["squeeze"] == "all" or (drawn["squeeze"] == "late" and late)
            blocks.append(
                Block(
                    kernel={"3": 3, "5": 5, "3-5": 5 if late else 3}[drawn["kernel"]],
                    hidden=hidden,
                    out=out,
                    stride=2 if index == 0 and after > level else 1,
                    squeeze=squeeze_channels(hidden) if squeezed else 0,
                    activation=ACTIVATION,
                    start_kernel=drawn["start"] if blocks else 0,
                )
            )
            before = out
    return MobileArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem=Stem(channels=drawn["stem"], stride=STEM_STRIDE, activation=ACTIVATION),
        blocks=tuple(blocks),
        head=Head(channels=drawn["head"], hidden=0, activation=ACTIVATION, dropout=0.2),
    )


def widest(drawn: dict[str, Any], flops: int, image_size: int, classes: int) -> MobileArch | None:
    """Return the widest that keeps the budget, if it uses most of it."""
    widths = [0.1 * 1.03**step for step in range(STEPS)]
    archs = [network(drawn, width, image_size, classes) for width in widths]
    kept = [arch for arch in archs if costs(arch).flops <= flops]
    return kept[-1] if kept and costs(kept[-1]).flops >= MIN_USED * flops else None


def described(arch: MobileArch) -> dict[str, Any]:
    """Return a network in the table's words."""
    blocks = [[b.kernel, b.hidden, b.out, b.stride, b.squeeze, b.start_kernel] for b in arch.blocks]
    return {
        "activation": ACTIVATION,
        "stem": [arch.stem.channels, arch.stem.stride],
        "blocks": [block if block[-1] else block[:-1] for block in blocks],
        "head": arch.head.channels,
    }


def parser(purpose: str, networks: int) -> argparse.ArgumentParser:
    """Return the parser of the arguments that `start` needs."""
    made = argparse.ArgumentParser(description=purpose)
    made.add_argument("table", type=Path)
    made.add_argument("--data", required=True)
    made.add_argument("--image-size", type=int, required=True)
    made.add_argument("--flops", type=parse_count, required=True)
    made.add_argument("--networks", type=int, default=networks)
    return made


def start(given: argparse.Namespace, decisions: str) -> tuple[ImageData, RunSettings, list[Line]]:
    """Return images, settings and the lines of the table so far; the first describes it."""
    torch.set_num_threads(1)
    request = Request(data=given.data, image_size=given.image_size, flops=given.flops)
    data = load_data(request.data_settings)
    settings = request.settings(len(data.train))
    head = {
        "images": data.fingerprint,
        "training_images": len(data.train),
        "classes": len(data.classes),
        "recipe": to_plain(settings.recipe),
        "blocks": BLOCKS,
        "decisions": decisions,
        "versions": versions(),
    }
    lines = table_lines(given.table) or [head]
    if any(lines[0][name] != head[name] for name in ("images", "classes", "recipe")):
        raise SystemExit(f"{given.table} is another table")
    return data, settings, lines


def main() -> None:
    """Train what the table lacks."""
    given = parser(__doc__.partition("\n")[0], networks=120).parse_args()
    data, settings, lines = start(given, "what was drawn")
    recipe, classes = settings.recipe, len(data.classes)
    for number in range(given.networks):
        key = {"number": number, "image_size": given.image_size, "limit": given.flops, "seed": 0}
        if any(line.items() >= key.items() for line in lines[1:]):
            continue
        drawn = draw(random.Random(f"{given.table.stem}/{number}"))
        arch = widest(drawn, given.flops, data.image_size, classes)
        if arch is None:
            continue
        decisions = {name: drawn[name] for name in DECISIONS}
        decisions["first stage"] = "one block" if drawn["depths"][0] == 1 else "two to four"
        line = key | described(arch) | trained(arch, data, recipe, 0) | {"decisions": decisions}
        lines.append(line)
        write_jsonl(given.table, lines)
        print(f"{line['test_top1']:.1f} % {line['processor_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
