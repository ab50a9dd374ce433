import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core._torchvision import models
from mobilenas.cost.networks import costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.mobile.mobilenets import MOBILENETS, small_image_strides
from mobilenas.spaces.mobile.settings import COMPARED
from mobilenas.spaces.networks import build

STRIDES = st.lists(st.sampled_from((1, 2)), min_size=1, max_size=20)


def last_side(strides: tuple[int, ...] | list[int], side: int) -> int:
    for stride in strides:
        side = (side + stride - 1) // stride
    return side


@pytest.mark.parametrize("name", COMPARED)
def test_flops_and_params_at_224_are_torchvisions(name: str) -> None:
    theirs = getattr(models, name)()
    exact = costs(MOBILENETS[name](1.0, 224, 1000))
    assert exact.flops == sum(count_fvcore(theirs, 224, 3).values())
    assert exact.params == sum(weight.numel() for weight in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "flops", "params"),
    [
        ("mobilenet_v1", 568_740_352, 4_231_976),
        ("mobilenet_v2", 300_774_272, 3_504_872),
        # published with a batch norm of 1280 channels, where ours has 1280 biases: 3,774,024
        ("mobilenet_v4_conv_small", 186_005_568, 3_774_024 - 1280),
        ("efficientnet_lite0", 385_187_552, 4_652_008),
    ],
)
def test_networks_have_their_published_size(name: str, flops: int, params: int) -> None:
    arch = MOBILENETS[name](1.0, 224, 1000)
    exact = costs(arch)
    assert (exact.flops, exact.params) == (flops, params)
    module = build(arch)
    assert sum(weight.numel() for weight in module.parameters()) == params
    assert sum(count_fvcore(module, 224, 3).values()) == flops


def test_the_blocks_of_mobilenet_v4_are_their_layers() -> None:
    """A fused block, one without a second depthwise convolution, and one that has both."""
    net = build(MOBILENETS["mobilenet_v4_conv_small"](1.0, 224, 10)).eval()
    x = torch.randn(1, 32, 16, 16)
    fused, h = net.blocks[0], x
    for layer in (fused.expand, fused.project):
        h = torch.relu(layer[1](layer[0](h)))
    assert fused.expand[0].weight.shape == (32, 32, 3, 3)
    torch.testing.assert_close(fused(x), h)
    x = torch.randn(1, 96, 8, 8)
    with_start = net.blocks[7]
    assert with_start.start[0].groups == 96
    expand = with_start.expand
    h = torch.relu(expand[1](expand[0](with_start.start(x))))
    torch.testing.assert_close(with_start(x), x + with_start.project(h))
    both = net.blocks[2]
    assert [both.start[0].kernel_size, both.depthwise[0].kernel_size] == [(5, 5), (5, 5)]
    assert [both.start[0].stride, both.depthwise[0].stride] == [(1, 1), (2, 2)]


def test_a_separable_convolution_has_no_shortcut() -> None:
    net = build(MOBILENETS["mobilenet_v1"](1.0, 224, 10)).eval()
    block, x = net.blocks[2], torch.randn(1, 128, 8, 8)
    h = torch.relu(block.depthwise[1](block.depthwise[0](x)))
    h = torch.relu(block.project[1](block.project[0](h)))
    torch.testing.assert_close(block(x), h)
    assert (h >= 0).all()
    assert len(net.head) == 0


@pytest.mark.parametrize("name", COMPARED)
def test_the_module_is_torchvisions_layer_for_layer(name: str) -> None:
    ours, theirs = build(MOBILENETS[name](1.0, 224, 1000)), getattr(models, name)()
    mine, yours = (list(net.state_dict().values()) for net in (ours, theirs))
    assert [w.shape for w in mine] == [w.shape for w in yours]
    ours.load_state_dict(dict(zip(ours.state_dict(), yours, strict=True)))
    for net in (ours, theirs):
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-3  # torchvision's own for V3; ours is 1e-5 everywhere
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(MOBILENETS))
@pytest.mark.parametrize(("width", "size"), [(0.1, 8), (0.35, 32), (1.4, 96)])
def test_every_width_and_size_runs(name: str, width: float, size: int) -> None:
    arch = MOBILENETS[name](width, size, 7)
    sizes = {block.out % 8 for block in arch.blocks} | {block.hidden % 8 for block in arch.blocks}
    assert sizes == {0}
    assert last_side([arch.stem.stride, *(block.stride for block in arch.blocks)], size) >= 4
    with torch.no_grad():
        assert build(arch).eval()(torch.zeros(2, 3, size, size)).shape == (2, 7)


@given(STRIDES, st.integers(128, 4096))
def test_strides_stay_from_128_pixels_up(strides: list[int], size: int) -> None:
    assert small_image_strides(strides, size) == tuple(strides)


@given(STRIDES, st.integers(4, 127))
def test_a_small_image_keeps_4x4_with_as_many_strides_as_that_allows(
    strides: list[int], size: int
) -> None:
    kept = small_image_strides(strides, size)
    assert all(new in (1, old) for new, old in zip(kept, strides, strict=True))
    assert last_side(kept, size) >= 4
    for old, new in zip(strides, kept, strict=True):
        if new != old:
            assert (size + 1) // 2 < 4  # one more halving would be one too many
        size = (size + new - 1) // new
