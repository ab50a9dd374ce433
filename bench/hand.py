"""Finished runs compared with networks designed by hand.

    python bench/hand.py hand.jsonl runs/glyphs-32-1M runs/stamps-128-10M

hand.json has three: with early strides, with late strides, wide and shallow; a block's kernel,
expansion and channels, and by the image's side all strides, the stem's first. Each is made as wide
as the run's FLOPs budget allows and trained as the run's networks were, by its recipe and from its
seed; test images are looked at once. A line a network goes into the first argument, which a killed
program goes on with. Then a table of test top-1. One thread.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from tables import trained

from mobilenas.core.files import parse_json, read_jsonl, write_jsonl
from mobilenas.core.progress import NullReporter
from mobilenas.cost.networks import costs
from mobilenas.pipeline.run_folder import COMPARE_FILE, Run, open_run
from mobilenas.report.table import read_networks
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem

HANDS = Path(__file__).with_name("hand.json")
ACTIVATION = "hard_swish"
MULTIPLE = 4
"""Channels are multiples of it, so that little of the budget is left."""
STEPS = 400
"""Widths that are tried, from a tenth to about fifty times what is written."""


def scaled(channels: int, width: float) -> int:
    """Return so many channels times `width`, to the nearest multiple."""
    return MULTIPLE * max(1, round(channels * width / MULTIPLE))


def network(drawn: dict[str, Any], width: float, image_size: int, classes: int) -> MobileArch:
    """Return a network of hand.json with all its channels times `width`."""
    if str(image_size) not in drawn["strides"]:
        raise SystemExit(f"hand.json has no strides for a side of {image_size}")
    stride, *strides = drawn["strides"][str(image_size)]
    before = stem = scaled(drawn["stem"], width)
    blocks = []
    for (kernel, expansion, channels), step in zip(drawn["blocks"], strides, strict=True):
        out = scaled(channels, width)
        blocks.append(
            Block(
                kernel=kernel,
                hidden=before * expansion,
                out=out,
                stride=step,
                squeeze=0,
                activation=ACTIVATION,
            )
        )
        before = out
    head = scaled(drawn["head"], width)
    return MobileArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem=Stem(channels=stem, stride=stride, activation=ACTIVATION),
        blocks=tuple(blocks),
        head=Head(channels=head, hidden=0, activation=ACTIVATION, dropout=0.2),
    )


def widest(drawn: dict[str, Any], flops: float, image_size: int, classes: int) -> MobileArch:
    """Return the widest that keeps a limit of FLOPs."""
    widths = [0.1 * 1.016**step for step in range(STEPS)]
    archs = [network(drawn, width, image_size, classes) for width in widths]
    kept = [arch for arch in archs if costs(arch).flops <= flops]
    if not kept:
        raise SystemExit(f"a network of hand.json has more than {flops:,} FLOPs at any width")
    return kept[-1]


def lines_of(run: Run, table: Path) -> list[dict[str, Any]]:
    """Return the networks by hand that were trained as the run's were; train what lacks."""
    (limit,) = (budget.limit for budget in run.settings.budgets if budget.cost == "flops")
    recipe, data, lines = run.settings.recipe, run.data, read_jsonl(table)
    key = {
        "images": data.fingerprint,
        "limit": limit,
        "epochs": recipe.epochs,
        "seed": run.settings.seed,
    }
    found = [line for line in lines if line.items() >= key.items()]
    hands: Any = parse_json(HANDS.read_bytes(), str(HANDS))
    for name, drawn in hands.items():
        if name in [line["name"] for line in found]:
            continue
        arch = widest(drawn, limit, data.image_size, len(data.classes))
        line = key | {"name": name} | trained(arch, data, recipe, run.settings.seed)
        lines.append(line)
        found.append(line)
        write_jsonl(table, lines)
    return found


def main() -> None:
    """Train what lacks, and print a row a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for folder in given.runs:
        run = open_run(folder, NullReporter())
        hands = {line["name"]: line["test_top1"] for line in lines_of(run, given.table)}
        networks = read_networks(folder / COMPARE_FILE)
        top1 = {
            kind: [entry.top1 for entry in networks if entry.kind == kind]
            for kind in ("searched", "random", "mobilenet")
        }
        told = [
            f"searched {statistics.mean(top1['searched']):.1f}",
            f"random {statistics.mean(top1['random']):.1f} (best {max(top1['random']):.1f})",
            f"best MobileNet {max(top1['mobilenet']):.1f}",
            *(f"{name} {value:.1f}" for name, value in hands.items()),
        ]
        print(f"{folder.name}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
