"""Settings and the small spaces that several rooms' tests share."""

from itertools import product

import pytest
import torch
from hypothesis import settings

from mobilenas.spaces import Choice, Head, MobileSpace, Stage, Stem

settings.register_profile("mobilenas", deadline=None, derandomize=True)
settings.load_profile("mobilenas")
torch.set_num_threads(1)


def space(*stages: Stage, image_size: int) -> MobileSpace:
    return MobileSpace(
        image_size=image_size,
        in_channels=3,
        classes=5,
        stem=Stem(channels=8, stride=2, activation="hard_swish"),
        stages=stages,
        head=Head(channels=16, hidden=0, activation="hard_swish", dropout=0.0),
        activation="hard_swish",
        kernels=(3, 5),
        expansions=(1, 3),
    )


@pytest.fixture(scope="session")
def tiny_space() -> MobileSpace:
    """Every kind of slot: a first block with and without stride, blocks that may be left out."""
    stages = (
        Stage(widths=(8, 16), stride=1, depth=2),
        Stage(widths=(8, 16, 24), stride=2, depth=3),
        Stage(widths=(16, 24), stride=1, depth=2),
    )
    return space(*stages, image_size=16)


@pytest.fixture(scope="session")
def micro_space() -> MobileSpace:
    """Small enough to name every network."""
    stages = (
        Stage(widths=(8, 16), stride=1, depth=2),
        Stage(widths=(16, 24), stride=2, depth=1),
    )
    return space(*stages, image_size=8)


@pytest.fixture(scope="session")
def every_choice(micro_space: MobileSpace) -> list[Choice]:
    slots = micro_space.slots
    decisions = {
        "width": [range(len(stage.widths)) for stage in micro_space.stages],
        "kernel": [range(len(micro_space.kernels)) for _ in slots],
        "expansion": [range(len(slot.expansions)) for slot in slots],
        "squeeze": [range(len(micro_space.squeeze)) for _ in slots],
        "keep": [(True,) if slot.first else (False, True) for slot in slots],
    }
    return [
        Choice(**dict(zip(decisions, picks, strict=True)))
        for picks in product(*(list(product(*options)) for options in decisions.values()))
    ]
