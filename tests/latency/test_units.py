import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import MobileNASError
from mobilenas.latency.units import (
    CLASS_COUNTS,
    KINDS,
    Unit,
    arch_units,
    block_unit,
    has_units,
    linear_unit,
    space_units,
)
from mobilenas.nn import ACTIVATIONS
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

COUNTS = st.integers(1, 2000)


@st.composite
def units(draw: st.DrawFn) -> Unit:
    kind = draw(st.sampled_from(KINDS))
    fields: dict[str, Any] = {"in_channels": draw(COUNTS), "out_channels": draw(COUNTS)}
    fields["activation"] = draw(st.sampled_from([*ACTIVATIONS]))
    fields["side"] = draw(st.integers(1, 512))
    if kind in ("stem", "block"):
        fields |= {"kernel": draw(st.sampled_from([1, 3, 5, 7])), "stride": draw(st.integers(1, 2))}
    if kind == "block":
        fields |= {"hidden": draw(COUNTS), "squeeze": draw(st.integers(0, 300))}
        fields |= {"start_kernel": draw(st.sampled_from([0, 3, 5]))}
    if kind == "linear":
        fields |= {"side": 1, "activation": draw(st.sampled_from(["", *ACTIVATIONS]))}
    return Unit(kind=kind, **fields)


@given(units())
def test_a_key_says_the_whole_unit(unit: Unit) -> None:
    assert Unit.parse(unit.key) == unit


def test_keys_are_readable() -> None:
    arch = MOBILENETS["mobilenet_v3_small"](1.0, 224, 1000)
    keys = [unit.key for unit in arch_units(arch)]
    assert len(keys) == 1 + len(arch.blocks) + 3
    assert keys[:2] == [
        "stem 224px 3>16 k3 s2 hard_swish",
        "block 112px 16>16>16 k3 s2 se8 relu",
    ]
    assert keys[-4:] == [
        "block 7px 96>576>96 k5 s1 se144 hard_swish",
        "features 7px 96>576 hard_swish",
        "linear 576>1024 hard_swish",
        "linear 1024>1000",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("block", "is not a unit; one reads like"),
        ("block 8px 8>8>8 k3 s1 relu ", "is not a unit; one reads like"),
        ("block 8px 8>8 k3 s1 relu", "hidden is 0; it must be between 1 and 65536"),
        ("block 8px 8>8>8 k3 s1 gelu", "activation is 'gelu'; it must be one of relu"),
        ("block 8px 8>8>8 k3 s3 relu", "stride is 3; it must be between 1 and 2"),
        ("stem 8px 3>8 k3 s1 se8 relu", "squeeze is 8; it must be between 0 and 0"),
        ("block 8px 8>8>8 start9 k3 s1 relu", "start_kernel is 9; it must be between 0 and 7"),
        ("features 7px 96>576", "activation is ''; it must be one of relu"),
        ("pool 7px 96>576 relu", "kind is 'pool'; it must be one of stem, block"),
        ("linear 8px 8>8", "side is 8; it must be between 1 and 1"),
        ("linear 08>8", "is not how a unit is written; write 'linear 8>8'"),
        ("linear 1px 8>8", "is not how a unit is written; write 'linear 8>8'"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_wrong(key: str, message: str) -> None:
    with pytest.raises(MobileNASError) as error:
        Unit.parse(key)
    assert repr(key) in str(error.value)
    assert message in str(error.value)


def test_the_units_of_a_space_are_those_of_its_networks(
    micro_space: MobileSpace, every_choice: list[Choice]
) -> None:
    known = space_units(micro_space)
    assert known == list(dict.fromkeys(known)) == space_units(micro_space)
    found = {unit for choice in every_choice for unit in arch_units(micro_space.arch(choice))}
    classifiers = {linear_unit(16, count) for count in (*CLASS_COUNTS, micro_space.classes)}
    assert set(known) - classifiers == found - classifiers
    assert [unit for unit in known if unit in classifiers] == [
        linear_unit(16, count) for count in CLASS_COUNTS
    ]


def test_a_space_with_a_hidden_head_layer_has_its_unit(tiny_space: MobileSpace) -> None:
    space = replace(tiny_space, head=replace(tiny_space.head, hidden=40))
    assert [unit.key for unit in space_units(space)[-4:]] == [
        "linear 16>40 hard_swish",
        "linear 40>10",
        "linear 40>100",
        "linear 40>1000",
    ]
    arch = space.arch(space.random(random.Random(0)))
    assert [unit.key for unit in arch_units(arch)[-2:]] == [
        "linear 16>40 hard_swish",
        "linear 40>5",
    ]


def test_sides_follow_the_strides(tiny_space: MobileSpace) -> None:
    arch = replace(tiny_space.arch(tiny_space.largest()), image_size=15)
    sides = [unit.side for unit in arch_units(arch)]
    assert sides == [15, 8, 8, 8, 4, 4, 4, 4, 4, 1]
    assert block_unit(arch.blocks[0], 8, 7).side == 7


def test_the_units_of_all_parts_of_a_network_are_known(parts: SubnetworkSpace) -> None:
    units = set(space_units(parts))
    assert {unit.side for unit in units if unit.kind == "stem"} == {32, 48}
    source = random.Random(0)
    choices = [parts.largest(), parts.smallest(), *(parts.random(source) for _ in range(20))]
    for choice in choices:
        *own, classifier = arch_units(parts.arch(choice))
        assert set(own) <= units
        assert replace(classifier, out_channels=CLASS_COUNTS[0]) in units


@pytest.mark.parametrize("name", sorted(MOBILENETS))
def test_blocks_that_no_profile_has_are_refused(name: str) -> None:
    arch = MOBILENETS[name](1.0, 64, 10)
    plain = name not in ("mobilenet_v1", "mobilenet_v4_conv_small")
    assert has_units(arch) is plain
    if not plain:
        with pytest.raises(MobileNASError, match="no profile has blocks that are no inverted"):
            arch_units(arch)
