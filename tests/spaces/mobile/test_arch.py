import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import write_json
from mobilenas.nn import ACTIVATIONS
from mobilenas.nn.operations import PADDINGS
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import read_arch

CHANNELS = st.integers(1, 2048)
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))
STRIDE = st.sampled_from((1, 2))
ARCHS = st.builds(
    MobileArch,
    image_size=st.integers(4, 512),
    in_channels=st.integers(1, 4),
    classes=st.integers(2, 1000),
    stem=st.builds(Stem, channels=CHANNELS, stride=STRIDE, activation=ACTIVATION),
    blocks=st.lists(
        st.builds(
            Block,
            kernel=st.sampled_from((1, 3, 5, 7)),
            hidden=CHANNELS,
            out=CHANNELS,
            stride=STRIDE,
            squeeze=st.integers(0, 512),
            activation=ACTIVATION,
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    head=st.builds(
        Head,
        channels=CHANNELS,
        hidden=st.integers(0, 2048),
        activation=ACTIVATION,
        dropout=st.floats(0, 1, exclude_max=True),
    ),
    padding=st.sampled_from(PADDINGS),
    epsilon=st.floats(1e-12, 1),
    momentum=st.floats(1e-6, 1),
)


@given(ARCHS)
def test_the_json_form_comes_back_as_the_same_arch(arch: MobileArch) -> None:
    plain = json.loads(json.dumps(arch.to_dict()))
    again = MobileArch.from_dict(plain)
    assert again == arch
    assert again.to_dict() == plain


def test_what_older_releases_lack_is_written_only_where_it_says_something() -> None:
    arch = mobilenet_v3_small(0.5, 32, 10)
    plain = arch.to_dict()
    assert list(plain) == [
        "space",
        "image_size",
        "in_channels",
        "classes",
        "stem",
        "blocks",
        "head",
    ]
    other = replace(arch, padding="same", epsilon=1e-3, momentum=0.01)
    assert other.to_dict() == plain | {"padding": "same", "epsilon": 1e-3, "momentum": 0.01}
    for each in (arch, other):
        again = MobileArch.from_dict(each.to_dict())
        assert again == each
        assert again.to_dict() == each.to_dict()


def test_an_arch_is_read_bare_and_from_a_run(tmp_path: Path) -> None:
    arch = mobilenet_v3_small(0.5, 32, 10)
    write_json(tmp_path / "bare.json", arch.to_dict())
    write_json(tmp_path / "arch.json", {"costs": {"flops": 1}, "arch": arch.to_dict()})
    assert read_arch(tmp_path / "bare.json") == arch
    assert read_arch(tmp_path / "arch.json") == arch


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return edit


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return edit


CHANNEL_RANGE = "a whole number, 1 to 65536"
BLOCK_FIELDS = "kernel, hidden, out, stride, squeeze, activation"
BLOCK = {"kernel": 3, "hidden": 16, "out": 16, "stride": 1, "squeeze": 0, "activation": "relu"}
BAD_EDITS = {
    "no-space": (drop("space"), "arch.space is None; it must be one of mobile, cell"),
    "space": (put("space", value="chain"), "arch.space is 'chain'; it must be one of mobile, cell"),
    "size": (put("image_size", value=3), "image_size is 3; it must be a whole number, 4 to 4096"),
    "missing": (drop("classes"), "arch lacks 'classes'; its fields are image_size, in_channels"),
    "missing-in-block": (
        drop("blocks", 2, "out"),
        f"arch.blocks[2] lacks 'out'; its fields are {BLOCK_FIELDS}",
    ),
    "unknown": (put("depth", value=3), "arch has an unknown field 'depth'; its fields are image_"),
    "unknown-in-block": (
        put("blocks", 0, "groups", value=1),
        f"arch.blocks[0] has an unknown field 'groups'; its fields are {BLOCK_FIELDS}",
    ),
    "text": (put("classes", value="ten"), "arch.classes is 'ten'; it must be int"),
    "float": (put("blocks", 1, "out", value=16.0), "arch.blocks[1].out is 16.0; it must be int"),
    "bool": (put("blocks", 1, "squeeze", value=True), "arch.blocks[1].squeeze is True; it must be"),
    "null": (put("stem", "channels", value=None), "arch.stem.channels is None; it must be int"),
    "no-object": (put("head", value=[1]), "arch.head is [1]; it must be an object"),
    "no-list": (put("blocks", value={}), "arch.blocks is {}; it must be a list"),
    "no-block": (put("blocks", 1, value=7), "arch.blocks[1] is 7; it must be an object"),
    "empty": (put("blocks", value=[]), "blocks is empty; an arch has at least one block"),
    "stride": (
        put("blocks", 3, "stride", value=3),
        "blocks[3].stride is 3; it must be one of 1, 2",
    ),
    "stem-stride": (put("stem", "stride", value=0), "stem.stride is 0; it must be one of 1, 2"),
    "kernel": (
        put("blocks", 0, "kernel", value=4),
        "blocks[0].kernel is 4; it must be one of 0, 1, 3, 5, 7",
    ),
    "fused": (
        put("blocks", 0, value={**BLOCK, "kernel": 0, "fused": True}),
        "blocks[0].kernel is 0; a fused block has one of 1, 3, 5, 7",
    ),
    "no-kernel": (
        put("blocks", 0, value={**BLOCK, "kernel": 0, "stride": 2}),
        "blocks[0].stride is 2; without a kernel it is 1",
    ),
    "activation": (
        put("blocks", 0, "activation", value="gelu"),
        "blocks[0].activation is 'gelu'; it must be one of relu, relu6, hard_swish",
    ),
    "negative": (
        put("blocks", 0, "hidden", value=-8),
        f"blocks[0].hidden is -8; it must be {CHANNEL_RANGE}",
    ),
    "huge": (
        put("head", "channels", value=10**9),
        "head.channels is 1000000000; it must be a whole number, 0 to 65536",
    ),
    "dropout": (put("head", "dropout", value=1), "head.dropout is 1.0; it must be in [0, 1)"),
    "padding": (put("padding", value="full"), "padding is 'full'; it must be one of symmetric, "),
    "epsilon": (put("epsilon", value=0), "epsilon is 0.0; it must be between 1e-12 and 1"),
    "momentum": (put("momentum", value=2), "momentum is 2.0; it must be between 1e-06 and 1"),
    "range": (put("head", "dropout", value=1.5), "head.dropout is 1.5; it must be in [0,"),
}


@pytest.mark.parametrize(("edit", "message"), BAD_EDITS.values(), ids=BAD_EDITS)
@pytest.mark.parametrize("in_run", [False, True])
def test_a_bad_hand_edit_names_file_place_value_and_what_is_legal(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str, in_run: bool
) -> None:
    data = copy.deepcopy(mobilenet_v3_small(0.5, 32, 10).to_dict())
    edit(data)
    path = tmp_path / "arch.json"
    write_json(path, {"arch": data} if in_run else data)
    with pytest.raises(FileError) as raised:
        read_arch(path)
    assert str(raised.value).startswith(f"{path}: {message}")


def test_python_callers_get_the_same_checks() -> None:
    with pytest.raises(MobileNASError, match="in_channels is True; it must be a whole number"):
        MobileArch(**vars(mobilenet_v3_small(0.5, 32, 10)) | {"in_channels": True})
    with pytest.raises(FileError, match=r"here: arch.space is 'cell'; it must be mobile"):
        MobileArch.from_dict({"space": "cell"}, "here")
