r"""Fit the prior that a search starts from to tables of trained networks.

    python bench/prior.py bench/tables/explored.jsonl bench/tables/photo.jsonl \
        bench/tables/photo1M.jsonl bench/tables/few.jsonl bench/tables/shapes-*.jsonl \
        bench/tables/random-*.jsonl

First Kendall's tau with test top-1 in each combination of images, size and budget, of what knows
the other combinations alone, and of what knows nine tenths of its own, too. Then
mobilenas/search/prior.json is written from all networks. It is fitted to validation top-1: test
images have no part in it. Left out are networks with a depthwise convolution of 5x5 before the
expansion, or with fewer than three blocks. Those of strides or widths that no space has stay in:
they say what is bad, and without them it ranks networks of other spaces much worse.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import table_lines
from scipy.stats import kendalltau

from mobilenas.core.files import to_json, write_text
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.search.prior import FILE, FLOPS, Process, Rows, features_and_places
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.space import Choice, MobileSpace

LENGTH, LINEAR, NOISE, REACH, SHARED = 1.0, 0.5, 0.5, (1.0, 4.0, 1.5), 0.3
"""Of the process."""
PER_DOUBLING = 5.0
"""Points of validation top-1; estimated as 7 ± 3 over random networks (docs/results/prior.md)."""
MIN_BLOCKS, PARTS = 3, 10
WORST, BEST = -10.0, 6.0
"""Points around the median: what lies outside is bad, or good, enough."""


def read_network(line: dict[str, Any], classes: int) -> MobileArch:
    """Return the arch of a line."""
    activation = line["activation"]
    channels, stride = line["stem"]
    return MobileArch(
        image_size=line["image_size"],
        in_channels=3,
        classes=classes,
        stem=Stem(channels=channels, stride=stride, activation=activation),
        blocks=tuple(
            Block(
                kernel=kernel,
                hidden=hidden,
                out=out,
                stride=stride,
                squeeze=squeeze,
                activation=activation,
                start_kernel=next(iter(start), 0),
            )
            for kernel, hidden, out, stride, squeeze, *start in line["blocks"]
        ),
        head=Head(channels=line["head"], hidden=0, activation=activation, dropout=0.2),
    )


def usable(line: dict[str, Any]) -> bool:
    """Whether a network is of the kind that is searched."""
    return len(line["blocks"]) >= MIN_BLOCKS and all(
        block[5:] in ([], [3]) for block in line["blocks"]
    )


def networks(
    name: str, head: dict[str, Any], lines: list[dict[str, Any]]
) -> Iterator[tuple[MobileArch, str, dict[str, Any]]]:
    """Yield archs of a table, which of them were trained alike, and their first lines."""
    if "space" not in head:
        known = set[MobileArch]()
        for line in filter(usable, lines):
            kind = f"{name} at {line['image_size']} px, {line['limit']} FLOPs"
            arch = read_network(line, head["classes"])
            if arch not in known:
                known.add(arch)
                yield arch, kind, line
        return
    space = from_plain(MobileSpace, head["space"], "space")
    limits = ", ".join(f"{budget['limit']} {budget['cost']}" for budget in head["budgets"])
    kind = f"{name} at {space.image_size} px, {limits}"
    for line in lines:
        if line["seed"] == 0:
            yield space.arch(from_plain(Choice, line["choice"], "choice")), kind, line


def centered(values: Rows, groups: Rows, middle: Any) -> Rows:
    """Return rows less the middle of their group."""
    found = values.copy()
    for group in np.unique(groups):
        found[groups == group] -= middle(values[groups == group], axis=0)
    return found


def fitted(x: Rows, places: Rows, y: Rows, scale: Rows) -> Process:
    """Return the process of features x: [N, D] and points y: [N], both less their group's."""
    return Process(
        length=LENGTH,
        linear=LINEAR,
        reach=REACH,
        shared=SHARED,
        noise=NOISE,
        per_doubling=PER_DOUBLING,
        scale=tuple(scale.round(5).tolist()),
        points=tuple(map(tuple, (x / scale).round(4).tolist())),
        places=tuple(map(tuple, places.round(3).tolist())),
        top1=tuple(y.round(3).tolist()),
    )


def main() -> None:
    """Print how well it ranks, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("mobilenas/search") / FILE)
    given = parser.parse_args()
    told, reached, groups, test = [], [], [], []
    for table in given.tables:
        head, *lines = table_lines(table)
        for arch, kind, line in networks(table.stem, head, lines):
            told.append(features_and_places([arch], head["training_images"]))
            reached.append(line["val_top1"][-1])
            groups.append(kind)
            test.append(line["test_top1"])
    group, top1, tested = np.array(groups), np.array(reached), np.array(test)
    rows, places = (np.concatenate(parts) for parts in zip(*told, strict=True))
    x = centered(rows, group, np.mean)
    worth = PER_DOUBLING * centered(places[:, FLOPS], group, np.mean)
    y = (centered(top1, group, np.median) - worth).clip(WORST, BEST)
    scale = x.std(0)
    part = np.random.default_rng(0).permutation(len(y)) % PARTS
    for name in np.unique(group):
        own = group == name
        others = fitted(x[~own], places[~own], y[~own], scale)
        expected, deviation = others.predict(x[own], places[own])
        beside = np.zeros(len(y))
        for number in range(PARTS):
            asked = own & (part == number)
            known = fitted(x[~asked], places[~asked], y[~asked], scale)
            beside[asked], _ = known.predict(x[asked], places[asked])
        expected, beside = expected + worth[own], beside + worth
        taus = [kendalltau(guess, tested[own]).statistic for guess in (expected, beside[own])]
        whole = np.sqrt(deviation**2 + NOISE * np.var(y))
        off = (y + worth)[own] - expected - ((y + worth)[own] - expected).mean()
        print(
            f"{name}: {own.sum()} networks, Kendall {taus[0]:.2f} and {taus[1]:.2f}, "
            f"{100 * np.mean(np.abs(off) < whole):.0f} % within a deviation ({whole.mean():.1f})"
        )
    write_text(given.out, to_json(to_plain(fitted(x, places, y, scale)), given.out) + "\n")


if __name__ == "__main__":
    main()
