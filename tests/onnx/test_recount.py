import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

import mobilenas.onnx.recount as recount
from mobilenas.core.errors import FileError
from mobilenas.cost.networks import costs, layer_costs
from mobilenas.onnx.checks import read_model
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.recount import count_fvcore, count_onnx
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build

SIZE = 64


def export(name: str, width: float, path: Path) -> Path:
    module = build(MOBILENETS[name](width, SIZE, 10))
    export_onnx(module, path, image_size=SIZE, channels=3, metadata={})
    return path


def graph(nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, list[int]]):
    """A model x -> y of the given nodes, with weights of ones."""
    stored = [
        helper.make_tensor(name, TensorProto.FLOAT, dims, [1.0] * int(torch.Size(dims).numel()))
        for name, dims in weights.items()
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])
    made = helper.make_graph(nodes, "test", [x], [y], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("mobilenet_v3_small", 0.1),
        *(
            pytest.param(name, width, marks=pytest.mark.slow)
            for name, width in [
                ("mobilenet_v2", 0.1),
                ("mobilenet_v3_large", 0.1),
                *((name, 1.0) for name in sorted(MOBILENETS)),
            ]
        ),
    ],
)
def test_the_file_costs_what_the_arch_says(tmp_path: Path, name: str, width: float) -> None:
    count = count_onnx(export(name, width, tmp_path / "model.onnx"))
    arch = MOBILENETS[name](width, SIZE, 10)
    exact = costs(arch)
    assert (count.flops, count.params) == (exact.flops, exact.params)
    counted = [layer.flops for layer in count.layers if layer.flops]
    assert counted == [layer.flops for layer in layer_costs(arch)]
    shapes = [layer.out_shape for layer in count.layers if layer.op == "Conv"]
    assert shapes == [
        layer.out_shape for layer in layer_costs(arch) if not layer.name.startswith("classifier")
    ]


def test_a_symbolic_batch_counts_as_one_image(tmp_path: Path) -> None:
    arch = MOBILENETS["mobilenet_v3_small"](0.1, SIZE, 10)
    arch = replace(arch, blocks=arch.blocks[:2])
    path, exact = tmp_path / "model.onnx", costs(arch)
    export_onnx(build(arch), path, image_size=SIZE, channels=3, metadata={}, dynamic_batch=True)
    count = count_onnx(path)
    assert (count.flops, count.params) == (exact.flops, exact.params)


@pytest.mark.parametrize("name", sorted(MOBILENETS))
def test_fvcore_agrees_layer_by_layer(name: str) -> None:
    arch = MOBILENETS[name](0.25, SIZE, 10)
    module = build(arch)
    counted = count_fvcore(module, SIZE, 3)
    assert module.training
    assert sorted(counted.values()) == sorted(layer.flops for layer in layer_costs(arch))
    assert "stem.0" in counted
    assert "stem.1" not in counted


def test_closed_forms(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2], group=2),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Flatten", ["n"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["g"]),
        helper.make_node("Add", ["g", "b2"], ["h"]),
        helper.make_node("Gemm", ["h", "w3"], ["y"], transB=1),
    ]
    weights = {"w": [6, 2, 3, 3], "s": [6], "b": [6], "m": [6], "v": [6]}
    weights |= {"w2": [96, 5], "b2": [5], "w3": [7, 5]}
    count = count_onnx(save(graph(nodes, ["n", 4, 8, 8], weights), tmp_path / "m.onnx"))
    assert [(layer.op, layer.flops, layer.params, layer.out_shape) for layer in count.layers] == [
        ("Conv", 6 * 2 * 9 * 16, 6 * 2 * 9, (6, 4, 4)),
        ("BatchNormalization", 0, 12, (6, 4, 4)),
        ("MatMul", 96 * 5, 96 * 5, (5,)),
        ("Add", 0, 5, (5,)),
        ("Gemm", 35, 35, (7,)),
    ]
    assert count.params == sum(layer.params for layer in count.layers)


def test_a_shared_weight_counts_once_and_scalars_do_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    model = graph(nodes, [1, 3], {"w": [3, 3], "low": [], "unused": [50]})
    count = count_onnx(save(model, tmp_path / "m.onnx"))
    assert (count.flops, count.params) == (18, 9)


class Own(nn.Module):
    """A convolution, what `middle` does to its maps, a pool and a classifier."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.conv, self.middle, self.fc = nn.Conv2d(3, 8, 3, padding=1), middle, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.middle(F.relu(self.conv(x))).mean((2, 3)))
        return y


class Twice(nn.Module):
    """One linear layer on two sets of maps, so that its weight is turned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(F.relu(self.linear(x.flatten(2).transpose(1, 2))))
        return y.transpose(1, 2).unflatten(2, (4, 4))


class Tied(nn.Module):
    """Two layers with one weight and two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(F.relu(self.a(x)))
        return y


class Scales(nn.Module):
    """Parameters of rank 0, 1 and 4, one of them expanded, under names that the exporter uses."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.rand(()))
        self.mul = nn.Parameter(torch.rand(8))
        self.expand = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mean * self.mul[None, :, None, None] + self.expand.expand_as(x)


class Shifted(nn.Module):
    """Subtracts a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.rand(8, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.get_buffer("shift")


def normed(kind: Any) -> nn.Module:
    return kind(nn.Conv2d(8, 8, 3, padding=1))


@pytest.mark.parametrize(
    "middle",
    [
        Twice,
        Tied,
        Scales,
        lambda: nn.GroupNorm(2, 8),
        lambda: nn.BatchNorm2d(8),
        *(
            pytest.param(middle, marks=pytest.mark.slow)
            for middle in (
                Shifted,
                lambda: nn.GroupNorm(2, 8, affine=False),
                lambda: nn.BatchNorm2d(8, affine=False),
                lambda: nn.InstanceNorm2d(8),
                lambda: nn.InstanceNorm2d(8, affine=True),
                lambda: nn.LayerNorm([4, 4], elementwise_affine=False),
                lambda: nn.PReLU(8),
                nn.PReLU,
                lambda: normed(nn.utils.parametrizations.weight_norm),
                lambda: normed(nn.utils.parametrizations.spectral_norm),
            )
        ),
    ],
)
def test_what_comes_from_parameters_counts_once_and_nothing_else(
    middle: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, path = Own(middle()).eval(), tmp_path / "m.onnx"
    export_onnx(module, path, image_size=4, channels=3, metadata={})
    count = count_onnx(path)
    assert count.params == sum(weight.numel() for weight in module.parameters())
    assert count.flops == sum(count_fvcore(module, 4, 3).values())


@pytest.mark.parametrize(
    ("nodes", "shape", "weights", "message"),
    [
        (
            [helper.make_node("ConvTranspose", ["x", "w"], ["y"])],
            [1, 2, 4, 4],
            {"w": [2, 3, 3, 3]},
            "ConvTranspose",
        ),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], [4, 3], {"w": [3, 3]}, "batch"),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, "s", 3], {"w": [3, 3]}, "'x'"),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 4], {"w": [3, 3]}, "inferred"),
        (
            [
                helper.make_node("NonZero", ["x"], ["i"]),
                helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("MatMul", ["x", "f"], ["y"]),
            ],
            [1, 2],
            {},
            "dynamic",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(
    tmp_path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    weights: dict[str, list[int]],
    message: str,
) -> None:
    path = save(graph(nodes, shape, weights), tmp_path / "odd.onnx")
    with pytest.raises(FileError, match=message) as caught:
        count_onnx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07\x12\x05torch"])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"wrong\.onnx is not an ONNX file"):
        count_onnx(path)
    with pytest.raises(FileError, match="does not exist"):
        count_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize("read", [count_onnx, read_model])
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "model.onnx"
    flat = [helper.make_node("Relu", ["x"], ["z"]), helper.make_node("Flatten", ["z"], ["y"])]
    save(graph(flat, [1, 3, 8, 8], {}), path)
    read(path)
    path.write_bytes(path.read_bytes().replace(b"Relu", b"Re\xfeu"))
    with pytest.raises(FileError, match=r"model\.onnx is not .* ONNX file"):
        read(path)


def test_the_recount_knows_nothing_of_our_own_counts() -> None:
    tree = ast.parse(Path(recount.__file__).read_text(encoding="utf-8"))
    ours = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [name for name in ours if name and name.startswith("mobilenas")]
    assert own == ["mobilenas.core.errors"]
