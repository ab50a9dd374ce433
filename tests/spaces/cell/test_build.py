"""Cell archs as modules: size, wiring, drop path, the auxiliary classifier, ONNX."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.cost.networks import costs
from mobilenas.onnx.export import check_parity, export_onnx
from mobilenas.onnx.recount import count_fvcore, count_onnx
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.build import DropPath, FactorizedReduce, SeparableConv
from mobilenas.spaces.cell.genotypes import CELL_NETWORKS, parse_genotype
from mobilenas.spaces.networks import build

# every operation at both strides, an empty node, one that is not concatenated, an unread input 0
EVERY_OPERATION = """Genotype(
    normal=[[('sep_conv_3x3', 1), ('skip_connect', 1)], [],
            [('dil_conv_5x5', 2), ('avg_pool_3x3', 1), ('max_pool_3x3', 2)],
            [('sep_conv_5x5', 4), ('dil_conv_3x3', 1), ('skip_connect', 2)]],
    normal_concat=[3, 4, 5],
    reduce=[[('sep_conv_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 1)],
            [('dil_conv_3x3', 0), ('max_pool_3x3', 1)], [('sep_conv_5x5', 0), ('dil_conv_5x5', 1)],
            [('skip_connect', 3), ('dil_conv_3x3', 2)]],
    reduce_concat=range(2, 6))"""
TWO_NODES = "Genotype(normal={0}, normal_concat=[2, 3], reduce={0}, reduce_concat=[2, 3])"


def small(text: str = EVERY_OPERATION, **changes: object) -> CellArch:
    arch = CELL_NETWORKS["darts_v2"](image_size=16, classes=5)
    plain = {"channels": 4, "layers": 5, "genotype": parse_genotype(text), "drop_path": 0.0}
    return replace(arch, **plain | changes)


def images(arch: CellArch, number: int = 3) -> Tensor:
    size = (number, arch.in_channels, arch.image_size, arch.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def deployed(network: nn.Module) -> int:
    """Params as the papers count them."""
    named = network.named_parameters()
    return sum(weight.numel() for name, weight in named if not name.startswith("auxiliary."))


@pytest.mark.parametrize(
    ("name", "params", "published"),
    [
        ("darts_v2", 3_349_342, 3.3),
        ("pc_darts_cifar", 3_634_678, 3.6),
        ("pc_darts_imagenet", 5_342_464, 5.3),
    ],
)
def test_published_networks_have_their_published_size(
    name: str, params: int, published: float
) -> None:
    network = build(CELL_NETWORKS[name]())
    assert deployed(network) == params
    assert round(params / 1e6, 1) == published
    assert sum(weight.numel() for weight in network.parameters()) > params


def test_the_cifar_cells_in_the_imagenet_setting_have_their_published_size() -> None:
    imagenet = CELL_NETWORKS["pc_darts_imagenet"]()
    for name, params, published in (
        ("darts_v2", 4_718_752, 4.7),
        ("pc_darts_cifar", 5_270_560, 5.3),
    ):
        arch = replace(imagenet, genotype=CELL_NETWORKS[name]().genotype)
        assert deployed(build(arch)) == params
        assert round(params / 1e6, 1) == published


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize(
    ("stem", "size", "in_channels"), [("cifar", 4, 1), ("cifar", 19, 3), ("imagenet", 33, 3)]
)
def test_every_size_runs_and_every_weight_learns(
    stem: str, size: int, in_channels: int, layers: int
) -> None:
    arch = small(stem=stem, image_size=size, in_channels=in_channels, layers=layers)
    network = build(arch)
    logits, auxiliary = network.forward_both(images(arch))
    assert logits.shape == auxiliary.shape == (3, 5)
    (logits.sum() + auxiliary.sum()).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_cell_is_wired_as_its_arch_says() -> None:
    nodes = (
        "[[('dil_conv_3x3', 1), ('skip_connect', 1)], [('avg_pool_3x3', 2), ('skip_connect', 0)]]"
    )
    arch = small(TWO_NODES.format(nodes), layers=3)
    network = build(arch).eval()
    cell = network.cells[0]  # the normal one
    stem = network.stem(images(arch))
    first, second = cell.enter[0](stem), cell.enter[1](stem)
    node = cell.nodes[0][0](second) + second
    pooled = nn.functional.avg_pool2d(node, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(cell(stem, stem), torch.cat((node, pooled + first), 1))


def test_the_network_passes_both_last_outputs_on() -> None:
    genotype = CELL_NETWORKS["darts_v2"]().genotype
    for stem, size in (("cifar", 8), ("imagenet", 32)):
        arch = small(stem=stem, image_size=size, layers=8, genotype=genotype)
        network = build(arch).eval()
        before = network.stem(images(arch))
        last = before if stem == "cifar" else network.second_stem(before)
        outputs = [before, last]
        for cell in network.cells:
            outputs.append(cell(outputs[-2], outputs[-1]))
        sides = [tuple(output.shape[1:]) for output in outputs[2:]]
        assert sides == [(p.out_channels, p.out_side, p.out_side) for p in arch.cells]
        logits, auxiliary = network.forward_both(images(arch))
        torch.testing.assert_close(logits, network.classifier(outputs[-1].mean((2, 3))))
        torch.testing.assert_close(auxiliary, network.auxiliary(outputs[2 + 5]))


def test_a_separable_convolution_is_relu_depthwise_pointwise_norm() -> None:
    block = SeparableConv(2, 5, 2, dilation=2).eval()
    x = torch.randn(1, 2, 9, 9)
    y = nn.functional.conv2d(x.relu(), block.depthwise.weight, None, 2, 4, 2, 2)
    y = nn.functional.conv2d(y, block.project.weight)
    torch.testing.assert_close(block(x), y / (1 + block.norm.eps) ** 0.5)
    assert y.shape == (1, 2, 5, 5)


@pytest.mark.parametrize("side", [4, 5])
def test_a_factorized_reduction_sees_even_and_odd_pixels(side: int) -> None:
    block = FactorizedReduce(1, 2, side).eval()
    nn.init.ones_(block.even.weight)
    nn.init.ones_(block.odd.weight)
    x = torch.arange(1.0, side**2 + 1).view(1, 1, side, side)
    even, odd = block(x)[0] * (1 + block.norm.eps) ** 0.5
    torch.testing.assert_close(even, x[0, 0, ::2, ::2])
    expected = torch.zeros_like(even)
    expected[: side // 2, : side // 2] = x[0, 0, 1::2, 1::2]
    torch.testing.assert_close(odd, expected)


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    dropped = drop(torch.ones(4000, 2, 3, 3))
    per_image = dropped.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    assert set(per_image[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float(dropped.mean()) - 1) < 0.05
    assert torch.equal(drop.eval()(dropped), dropped)


def test_drop_path_spares_skips_and_evaluation() -> None:
    nodes = "[[('skip_connect', 1)], [('max_pool_3x3', 1)]]"
    arch = small(TWO_NODES.format(nodes), drop_path=0.99, layers=3)
    network = build(arch)
    cell, stem = network.cells[0], torch.randn(8, 12, 16, 16)
    with torch.no_grad():
        kept, dropped = cell(stem, stem).split(4, 1)
        assert kept.flatten(1).abs().amax(1).min() > 0
        assert dropped.flatten(1).abs().amax(1).min() == 0
        network.set_drop_path(0.0)
        assert cell(stem, stem).split(4, 1)[1].flatten(1).abs().amax(1).min() > 0
    with pytest.raises(MobileNASError, match=r"drop_path is 1\.0; it must be in"):
        network.set_drop_path(1.0)
    network.set_drop_path(0.99)
    network.eval()
    assert torch.equal(network(images(arch)), network(images(arch)))


def test_logits_come_alone_and_the_auxiliary_ones_when_the_arch_has_them() -> None:
    network = build(small())
    for mode in (True, False):
        assert network.train(mode)(images(small())).shape == (3, 5)
    bare = build(small(auxiliary=False))
    assert deployed(bare) == sum(weight.numel() for weight in bare.parameters())
    assert deployed(bare) == deployed(network)
    with pytest.raises(MobileNASError, match="auxiliary is False in the arch"):
        bare.forward_both(images(small()))


def test_the_start_weights_follow_the_global_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(small()).state_dict()["stem.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_exported_file_costs_and_says_the_same(stem: str, tmp_path: Path) -> None:
    side = 15 if stem == "cifar" else 33
    arch = small(image_size=side, layers=3, stem=stem, drop_path=0.5)
    network, exact = build(arch), costs(arch)
    with torch.no_grad():  # statistics of its own for every norm
        network(images(arch, 8))
    path = tmp_path / "model.onnx"
    export_onnx(network, path, image_size=side, channels=3, metadata={})
    counted = count_onnx(path)
    assert (counted.flops, counted.params) == (exact.flops, exact.params)
    by_module = count_fvcore(network, side, 3)
    assert sum(by_module.values()) == exact.flops
    assert not [name for name in by_module if name.startswith("auxiliary")]
    # the auxiliary classifier is not in the file, and neither is drop path
    model = onnx.load(str(path))
    assert not [item.name for item in model.graph.initializer if "auxiliary" in item.name]
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Dropout", "RandomUniformLike", "Bernoulli", "If", "Shape"}
    parity = check_parity(network, path, images(arch, 4).split(2))
    assert parity.max_abs_difference < 1e-4
    assert (parity.top1_agreement, parity.images) == (100.0, 4)
    assert network.training


@pytest.mark.parametrize("side", [6, 7])
def test_halving_the_image_is_the_same_in_training_and_out_of_it(side: int) -> None:
    reduce = FactorizedReduce(4, 6, side)
    x = torch.rand(3, 4, side, side)
    reduce.norm.eval()
    with torch.no_grad():
        trains = reduce(x)
        assert torch.allclose(trains, reduce.eval()(x), atol=1e-6)
    assert trains.shape == (3, 6, (side + 1) // 2, (side + 1) // 2)
