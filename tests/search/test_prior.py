import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenas.core.files import read_jsonl
from mobilenas.core.settings import to_plain
from mobilenas.cost.networks import costs
from mobilenas.search import prior
from mobilenas.search.prior import Prior, Process, features, place, process
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem


def block(out: int, *, hidden: int, stride: int = 1, kernel: int = 3, squeeze: int = 0) -> Block:
    return Block(
        kernel=kernel, hidden=hidden, out=out, stride=stride, squeeze=squeeze, activation="relu"
    )


ARCH = MobileArch(
    image_size=32,
    in_channels=3,
    classes=10,
    stem=Stem(channels=16, stride=2, activation="relu"),
    blocks=(
        block(8, hidden=16),
        block(16, hidden=48, stride=2, kernel=5, squeeze=16),
        replace(block(16, hidden=48), start_kernel=3),
        block(8, hidden=96, stride=2),
    ),
    head=Head(channels=64, hidden=0, activation="relu", dropout=0.2),
)


def test_features_of_a_network_by_hand() -> None:
    found = features(ARCH)
    stem = 16 * 16 * 16 * 27
    larger = 16 * 256 * (9 + 8)
    quarter = 8 * 48 * 256 + 48 * 64 * (25 + 16) + 16 * (9 + 48) * 64 + 48 * 64 * (9 + 16)
    smaller = 16 * 96 * 64 + 96 * 16 * (9 + 8)
    head = 16 * 8 * 64
    total = stem + larger + quarter + smaller + head
    seen = 16 * 256 + 16 * 2 * 256 + 48 * (256 + 64) + 48 * 2 * 64 + 96 * (64 + 16)
    exact = costs(ARCH)
    assert found == pytest.approx(
        {
            "blocks": math.log(4),
            "shortcuts": 1 / 4,
            "activations": math.log(seen / exact.flops),
            "squeeze": 1 / 4,
            "expansion": (0 + math.log2(6) + math.log2(3) + math.log2(6)) / 4,
            "strided_expansion": (math.log2(6) + math.log2(6)) / 2,
            "start": 1 / 4,
            "kernel": 3.5,
            "early_kernel": 3,
            "late_kernel": 3,
            "width": (3 + 4 + 4 + 3) / 4,
            "min_hidden": 4,
            "last_hidden": math.log2(96),
            "last_out": 3,
            "halvings": (1 + 2 + 2 + 3) / 4,
            "quarter_share": quarter / total,
            "larger_share": larger / total,
            "narrowing": 1,
            "stem_share": stem / total,
            "head_share": head / total,
            "relu": 1,
            "params": math.log(exact.params / exact.flops),
        }
    )


@pytest.mark.parametrize(("number", "early", "late"), [(0, 5, 3), (1, 3, 3), (2, 3, 3), (3, 3, 5)])
def test_kernels_on_the_largest_and_the_smallest_maps(number: int, early: int, late: int) -> None:
    blocks = [
        replace(each, kernel=5 if place == number else 3) for place, each in enumerate(ARCH.blocks)
    ]
    found = features(replace(ARCH, blocks=tuple(blocks)))
    assert (found["early_kernel"], found["late_kernel"]) == (early, late)


HERE = (5.0, 10.0, 13.0)


def told(**changed: Any) -> Process:
    given: dict[str, Any] = {
        "length": 1.0,
        "linear": 0.1,
        "reach": (1.0, 4.0, 1.5),
        "shared": 0.3,
        "noise": 1e-6,
        "per_doubling": 5.0,
        "scale": (2.0, 1.0),
        "points": ((-1.0, 0.0), (0.0, 0.5), (2.0, 1.0)),
        "places": (HERE, HERE, HERE),
        "top1": (-3.0, 0.5, 2.0),
    }
    return Process(**given | changed)


def test_a_process_agrees_with_what_it_was_told() -> None:
    rows = np.array([(-2.0, 0.0), (0.0, 0.5), (4.0, 1.0), (80.0, 0.0)])
    expected, deviation = told().predict(rows, np.array([HERE] * 4))
    assert expected[:3] == pytest.approx(told().top1, abs=1e-3)
    assert deviation[:3] == pytest.approx([0, 0, 0], abs=0.01)
    assert deviation[3] > np.std(told().top1)


@pytest.mark.parametrize("apart", [(6.0, 0, 0), (0, 20.0, 0), (0, 0, 8.0)])
def test_what_holds_here_is_expected_less_far_from_here(apart: tuple[float, ...]) -> None:
    rows = np.array([(-2.0, 0.0), (4.0, 1.0)])
    far = np.array([HERE] * 2) + apart
    expected, deviation = told().predict(rows, far)
    assert expected == pytest.approx([0.3 * -3.0, 0.3 * 2.0], abs=0.01)
    assert (deviation > told().predict(rows, np.array([HERE] * 2))[1]).all()


def test_the_place_of_a_network() -> None:
    pixels = 32**2
    assert place(ARCH, 2400) == pytest.approx(
        (5, math.log2(costs(ARCH).flops / pixels), math.log2(2400))
    )


def test_the_process_of_the_package_fits_the_features() -> None:
    own = process()
    names = list(features(ARCH))
    assert {len(own.scale), *map(len, own.points)} == {len(names)}
    assert len(own.points) == len(own.places) == len(own.top1) > 100
    assert json.loads(json.dumps(to_plain(own), allow_nan=False))


def test_the_prior_knows_what_hurts() -> None:
    usual = [replace(ARCH, blocks=ARCH.blocks[:n]) for n in (2, 3, 4)]
    activation = "hard_swish"
    smooth = replace(
        ARCH,
        stem=replace(ARCH.stem, activation=activation),
        blocks=tuple(replace(each, activation=activation) for each in ARCH.blocks),
    )
    large = replace(ARCH, blocks=tuple(replace(each, kernel=7) for each in ARCH.blocks))
    ours, relu, sevens = Prior(usual, 10_000).scores([smooth, ARCH, large])
    assert ours > relu > sevens


def test_flops_are_worth_points(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [ARCH, replace(ARCH, blocks=ARCH.blocks[:3])]
    others = [replace(ARCH, blocks=ARCH.blocks[:2]), ARCH]
    own, flops = Prior(usual, 10_000).scores(others), [costs(arch).flops for arch in others]
    without = replace(process(), per_doubling=0.0)
    monkeypatch.setattr(prior, "process", lambda: without)
    blind = Prior(usual, 10_000).scores(others)
    middle = np.mean([math.log2(costs(arch).flops) for arch in usual])
    worth = [5.0 * (math.log2(count) - middle) for count in flops]
    assert np.subtract(own, blind) == pytest.approx(worth)


def test_the_prior_was_fitted_to_the_tables() -> None:
    tables, found = Path(__file__).parents[2] / "bench/tables", Counter[float]()
    for table in tables.glob("*.jsonl"):
        head, *lines = read_jsonl(table)
        networks = set[str]()
        for line in lines:
            blocks = line.get("blocks", [[]] * 3)  # random networks of the space are all taken
            kernels = {start for block in blocks for start in block[5:]}
            if len(blocks) >= 3 and kernels <= {3}:
                decided = ("image_size", "activation", "stem", "blocks", "head", "choice")
                networks.add(str([line.get(name) for name in decided]))
        found[round(math.log2(head["training_images"]), 3)] += len(networks)
    assert Counter(images for *_, images in process().places) == found
