import json
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, parse_count, to_plain
from mobilenas.cost.networks import costs
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.table import CostTable
from mobilenas.spaces.mobile.template import Shape, levels_of, narrowest, sized, template, widest
from mobilenas.spaces.networks import build

JOBS = [(300_000, 32), (1_000_000, 32), (600_000_000, 224), (300_000, 8)]


def utilizations(space: MobileSpace, budget: int, seed: int = 0, draws: int = 100) -> list[float]:
    table, source = CostTable(space, "flops"), random.Random(seed)
    return [table.exact(space.random(source)) / budget for _ in range(draws)]


def sized_for(budget: int, side: int) -> MobileSpace:
    return sized(lambda space: utilizations(space, budget), image_size=side, classes=10)


@pytest.mark.parametrize(("budget", "size"), JOBS)
def test_the_budget_sizes_the_space(budget: int, size: int) -> None:
    space = sized_for(budget, size)
    for stage in space.stages:
        assert list(stage.widths) == sorted({w for w in stage.widths if w % 8 == 0 and w > 0})
    assert space.stem.channels % 8 == space.head.channels % 8 == 0
    drawn = utilizations(space, budget, 1, 400)
    assert 0.01 <= statistics.mean(utilization <= 1 for utilization in drawn) <= 0.2
    assert costs(space.arch(space.smallest())).flops < budget
    assert costs(space.arch(space.largest())).flops > 2 * budget


@pytest.mark.parametrize(
    "side",
    [24, 64, 224, *(pytest.param(side, marks=pytest.mark.slow) for side in (32, 48, 96, 128))],
)
@pytest.mark.parametrize("per_pixel", [500, 1000, 3000, 10_000, 30_000])
def test_every_stage_has_widths_to_choose_from(side: int, per_pixel: int) -> None:
    budget = per_pixel * side**2
    space = sized_for(budget, side)
    assert all(len(stage.widths) >= 3 for stage in space.stages)
    assert all(len(slot.expansions) > 1 for slot in space.slots[1:])
    drawn = utilizations(space, budget, 1, 400)
    assert 0.01 <= statistics.mean(utilization <= 1 for utilization in drawn) <= 0.2
    kept = side < 64 and per_pixel >= 3000
    assert (space.stem.stride, space.stages[0].stride) == ((1, 2) if kept else (2, 1))


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        (8, (0, 1, 1)),
        (15, (1, 1, 2)),
        (28, (1, 2, 2, 3)),
        (48, (1, 2, 2, 3)),
        (64, (1, 2, 3, 3, 4)),
        (224, (1, 2, 3, 4, 4, 5)),
        (512, (1, 2, 3, 4, 4, 5)),
    ],
)
@pytest.mark.parametrize("placement", ["early", "late"])
def test_maps_are_halved_to_4x4_in_five_times_at_most(
    side: int, levels: tuple[int, ...], placement: str
) -> None:
    assert levels_of(side) == levels
    space = template(1.0, image_size=side, classes=10, placement=placement)
    ends = {slot.stage: -(-slot.side // slot.stride) for slot in space.slots}
    sides = list(ends.values())
    assert sides == [-(-side // 2**level) for level in levels]
    assert (sides[-1] >= 4 > -(-sides[-1] // 2)) or levels[-1] == 5


@pytest.mark.parametrize(
    ("budget", "side", "widths"),
    [(10_000_000, 64, [16, 24, 40, 72, 112]), (150_000_000, 224, [16, 32, 48, 72, 120, 184])],
)
def test_stages_get_wider_as_in_networks_designed_by_hand(
    budget: int, side: int, widths: list[int]
) -> None:
    space = sized_for(budget, side)
    assert [stage.widths[1] for stage in space.stages] == widths
    assert [stage.depth for stage in space.stages] == [1, *[3] * (len(widths) - 1)]
    assert space.stem.channels == 8


def test_a_larger_budget_gives_more_blocks_and_wider_stages() -> None:
    spaces = [sized_for(budget, 32) for budget in (300_000, 3_000_000, 30_000_000)]
    flops = [costs(space.arch(space.largest())).flops for space in spaces]
    assert flops == sorted(flops)
    slots = [len(space.slots) for space in spaces]
    assert slots == sorted(slots)
    assert slots[0] < slots[-1]


@pytest.mark.parametrize("size", [8, 32])
def test_random_choices_build_and_run(size: int) -> None:
    space, source = template(0.3, image_size=size, classes=4), random.Random(0)
    for _ in range(3):
        arch = space.arch(space.random(source))
        with torch.no_grad():
            assert build(arch)(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_a_choice_that_leaves_blocks_out_is_a_shorter_arch(tiny_space: MobileSpace) -> None:
    largest = tiny_space.largest()
    keep = [slot.first for slot in tiny_space.slots]
    short = Choice(**vars(largest) | {"keep": tuple(keep)})
    full_arch, short_arch = tiny_space.arch(largest), tiny_space.arch(short)
    assert len(full_arch.blocks) == len(tiny_space.slots)
    assert short_arch.blocks == tuple(
        block for block, kept in zip(full_arch.blocks, keep, strict=True) if kept
    )


def test_slots_state_what_each_block_may_be(tiny_space: MobileSpace) -> None:
    slots = tiny_space.slots
    assert [slot.side for slot in slots] == [8, 8, 8, 4, 4, 4, 4]
    assert [slot.stride for slot in slots] == [1, 1, 2, 1, 1, 1, 1]
    assert [slot.first for slot in slots] == [True, False, True, False, False, True, False]
    assert slots[0].expansions == (1,)
    assert slots[0].in_widths == (8,)
    assert slots[2].in_widths == (8, 16)
    assert all(slot.in_widths == slot.out_widths for slot in slots if not slot.first)
    for choice in (tiny_space.smallest(), tiny_space.random(random.Random(3))):
        assert all(k for k, slot in zip(choice.keep, slots, strict=True) if slot.first)


def test_squeeze_policies_and_activation() -> None:
    on, off = (
        template(1, image_size=32, classes=4, squeeze=policy, activation="relu")
        for policy in ("on", "off")
    )
    assert all(block.squeeze for block in on.arch(on.smallest()).blocks)
    assert not any(block.squeeze for block in off.arch(off.largest()).blocks)
    assert {block.activation for block in on.arch(on.largest()).blocks} == {"relu"}
    with pytest.raises(MobileNASError, match="activation is 'gelu'; it must be one of relu"):
        template(1, image_size=32, classes=4, activation="gelu")
    with pytest.raises(MobileNASError, match="squeeze is 'maybe'; it must be one of searched"):
        template(1, image_size=32, classes=4, squeeze="maybe")


@pytest.mark.parametrize(("policy", "options"), [("searched", (0, 3)), ("on", (3,)), ("off", (0,))])
def test_a_block_may_start_with_a_convolution_where_it_has_an_expansion(
    policy: str, options: tuple[int, ...]
) -> None:
    space = template(1, image_size=32, classes=4, shape=Shape(narrow=True), extra_depthwise=policy)
    assert space.start_kernels == options
    assert [slot.start_kernels for slot in space.slots] == [(0,)] + [options] * len(space.slots[1:])
    source = random.Random(0)
    drawn = [space.arch(space.random(source)) for _ in range(20)]
    assert {block.start_kernel for arch in drawn for block in arch.blocks} == {0, *options}
    largest, unexpanded = space.arch(space.largest()), space.arch(space.smallest())
    assert {block.start_kernel for block in largest.blocks[1:]} == {options[-1]}
    assert {block.start_kernel for block in unexpanded.blocks} == {0}
    with pytest.raises(MobileNASError, match="extra_depthwise is 'maybe'; it must be one of"):
        template(1, image_size=32, classes=4, extra_depthwise="maybe")


@pytest.mark.parametrize("size", [8, 32, 224])
def test_a_space_round_trips_as_json(size: int) -> None:
    space = template(0.7, image_size=size, classes=12, extra_depthwise="searched")
    assert space.slots  # a cached property is no part of the JSON form
    assert from_plain(MobileSpace, json.loads(json.dumps(to_plain(space))), "space") == space


def test_the_readmes_table_of_sides_is_what_the_space_has() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    rows = {
        name: [cell.strip() for cell in re.search(rf"\| {name} \|(.*)\|", readme)[1].split("|")]  # type: ignore[index]
        for name in ("side", "minimum FLOPs", "maximum FLOPs")
    }
    for side, least, most in zip(*rows.values(), strict=True):
        asked = {"image_size": int(side), "classes": 10}
        minimum = CostTable(narrowest(**asked), "flops").minimum()
        assert minimum <= parse_count(least) <= 1.01 * minimum
        largest = widest(**asked, extra_depthwise="on")
        maximum = CostTable(largest, "flops").exact(largest.largest())
        assert 0.98 * maximum <= parse_count(most) <= maximum


def test_every_choice_is_legal_and_no_other(
    micro_space: MobileSpace, every_choice: list[Choice]
) -> None:
    assert all(map(micro_space.is_legal, every_choice))
    for choice in every_choice[:50]:
        assert not micro_space.is_legal(replace(choice, width=(*choice.width, 0)))
        assert not micro_space.is_legal(replace(choice, kernel=(2, *choice.kernel[1:])))
        assert not micro_space.is_legal(replace(choice, squeeze=(-1, *choice.squeeze[1:])))
        assert not micro_space.is_legal(replace(choice, start=(1, *choice.start[1:])))
        assert not micro_space.is_legal(replace(choice, keep=(False, *choice.keep[1:])))
