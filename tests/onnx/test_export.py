import json
import math
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from mobilenas.core.errors import DataError, FileError
from mobilenas.cost.networks import costs
from mobilenas.onnx.export import check_parity, evaluate_onnx, export_onnx, read_props, session
from mobilenas.onnx.metadata import ModelMetadata
from mobilenas.onnx.recount import count_onnx
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build

SIZE = 32
METADATA = {"labels": json.dumps(["cat", "größer"]), "budgets": "[]", "mean": "[0.1, 0.2, 0.3]"}


def trained_like(module: nn.Module) -> nn.Module:
    """Give batch norms statistics, as training does."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(layer.bias, 0, 0.3, generator=generator)
            layer.running_mean = torch.randn(layer.num_features, generator=generator) * 0.1
            layer.running_var = torch.rand(layer.num_features, generator=generator) + 0.5
    return module


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module = trained_like(build(mobilenet_v3_small(0.25, SIZE, 7)))
    path = tmp_path_factory.mktemp("export") / "deep" / "model.onnx"
    export_onnx(module, path, image_size=SIZE, channels=3, metadata=METADATA)
    return module, path


def test_the_file_says_what_the_module_says(exported: tuple[nn.Module, Path]) -> None:
    module, path = exported
    parity = check_parity(module, path, pictures(6).split(4))
    assert parity.max_abs_difference < 1e-4
    assert (parity.top1_agreement, parity.images) == (100.0, 6)
    assert module.training


def test_another_module_is_an_error_with_the_numbers(exported: tuple[nn.Module, Path]) -> None:
    other = trained_like(build(mobilenet_v3_small(0.25, SIZE, 7)))
    told = r"model\.onnx is not the network .* by up to \d.* 2 validation images .* the exporter"
    with pytest.raises(FileError, match=told):
        check_parity(other, exported[1], [pictures(2)])


class OfBatch(nn.Module):
    """Takes the mean of the batch away: of one image nothing is left."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 7, 1)
        self.norm = nn.BatchNorm2d(7, track_running_stats=kind != "norm")

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).mean((2, 3))
        return y - y.mean(0) if self.kind == "mean" else y


@pytest.mark.parametrize("kind", ["norm", "mean"])
@pytest.mark.parametrize("dynamic_batch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_whose_answer_depends_on_the_batch_has_no_parity(
    kind: str, dynamic_batch: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, path = OfBatch(kind), tmp_path / "m.onnx"
    export_onnx(module, path, image_size=SIZE, channels=3, metadata={}, dynamic_batch=dynamic_batch)
    told = "depends on the other images of its batch"
    with pytest.raises(FileError, match=told):
        check_parity(module, path, pictures(32).split(16))
    alone = OfBatch("none")
    export_onnx(alone, path, image_size=SIZE, channels=3, metadata={})
    assert check_parity(alone, path, pictures(32).split(16)).top1_agreement == 100


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["classifier.3.weight", "stem.1.running_var"])
def test_weights_that_are_not_finite_are_not_exported(
    name: str, value: float, tmp_path: Path
) -> None:
    module = trained_like(build(mobilenet_v3_small(0.25, SIZE, 7)))
    with torch.no_grad():
        module.state_dict()[name].view(-1)[0] = value
    with pytest.raises(FileError, match=rf"m\.onnx is not written: '{name}' holds NaN or inf"):
        export_onnx(module, tmp_path / "m.onnx", image_size=SIZE, channels=3, metadata={})
    assert not (tmp_path / "m.onnx").exists()


def test_logits_that_are_not_finite_are_an_error_on_both_sides(
    exported: tuple[nn.Module, Path],
) -> None:
    module, path = exported
    wild = pictures(1) * math.inf
    with pytest.raises(FileError, match="the PyTorch model gives logits that are not finite"):
        check_parity(module, path, [wild])
    with pytest.raises(FileError, match=r"model\.onnx gives nan as a logit"):
        evaluate_onnx(path, [(wild, torch.zeros(1, dtype=torch.long))])


def test_the_graph_is_plain(exported: tuple[nn.Module, Path]) -> None:
    module, path = exported
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 3, SIZE, SIZE]
    operators = {node.op_type for node in model.graph.node}
    assert operators >= {"Conv", "BatchNormalization", "Gemm"}
    assert not operators & {"Shape", "Expand", "CastLike", "Identity", "Constant"}
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    stored = sum(tensor.numel() for tensor in module.state_dict().values()) * 4
    assert path.stat().st_size < stored + 64_000


def test_nothing_of_the_exporting_machine_is_in_the_file(
    exported: tuple[nn.Module, Path],
) -> None:
    content = exported[1].read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content


def test_metadata_comes_back(exported: tuple[nn.Module, Path]) -> None:
    assert read_props(exported[1]) == METADATA
    model = onnx.load(str(exported[1]))
    assert {item.key: item.value for item in model.metadata_props} == METADATA


def test_export_says_nothing_and_is_the_same_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    for name in ("a", "b"):
        export_onnx(module, tmp_path / name, image_size=8, channels=3, metadata=METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not module.training


@pytest.mark.parametrize(
    ("side", "stem", "depthwise"), [(32, [0, 0, 1, 1], [1, 1, 2, 2]), (31, [1] * 4, [1, 1, 2, 2])]
)
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_uneven_padding_is_the_convolutions_own(
    side: int, stem: list[int], depthwise: list[int], dynamic_batch: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    v3 = mobilenet_v3_small(0.25, SIZE, 7)
    blocks = (replace(v3.blocks[0], kernel=5, stride=2), *v3.blocks[1:])
    arch = replace(v3, image_size=side, blocks=blocks, padding="same", epsilon=1e-3)
    module, path = trained_like(build(arch)), tmp_path / "m.onnx"
    options = {"channels": 3, "metadata": METADATA, "dynamic_batch": dynamic_batch}
    export_onnx(module, path, image_size=side, **options)
    graph = onnx.load(path).graph
    assert "Pad" not in {node.op_type for node in graph.node}
    pads = [
        next(list(item.ints) for item in node.attribute if item.name == "pads")
        for node in graph.node
        if node.op_type == "Conv"
    ]
    assert pads[0] == stem
    assert depthwise in pads
    (norm, *_) = (node for node in graph.node if node.op_type == "BatchNormalization")
    assert onnx.helper.get_node_attr_value(norm, "epsilon") == pytest.approx(1e-3)
    images = torch.randn(4, 3, side, side)
    assert check_parity(module, path, [images]).max_abs_difference < 1e-4
    assert count_onnx(path).flops == costs(arch).flops


def test_a_zero_bias_of_the_module_is_kept(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False))
    nn.init.zeros_(module.get_parameter("0.bias"))
    export_onnx(module, tmp_path / "m.onnx", image_size=8, channels=3, metadata={})
    first, second = onnx.load(str(tmp_path / "m.onnx")).graph.node
    assert (len(first.input), len(second.input)) == (3, 2)


def test_a_dynamic_batch_takes_any_number_of_images(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    path = tmp_path / "m.onnx"
    export_onnx(module, path, image_size=8, channels=3, metadata={}, dynamic_batch=True)
    runner = session(path, threads=1)
    for count in (1, 2, 5):
        images = pictures(count)[:, :, :8, :8].numpy()
        assert runner.run(None, {"image": images})[0].shape == (count, 2)


def test_top1_is_counted_over_all_batches(exported: tuple[nn.Module, Path]) -> None:
    module, path = exported
    images = pictures(8)
    with torch.inference_mode():
        labels = module.eval()(images).argmax(1)
    module.train()
    labels = torch.cat([(labels[:2] + 1) % 7, labels[2:]])
    batches = zip(images.split(3), labels.split(3), strict=True)
    assert evaluate_onnx(path, batches) == 75.0


def test_no_images_is_an_error(exported: tuple[nn.Module, Path]) -> None:
    with pytest.raises(DataError, match="no images"):
        evaluate_onnx(exported[1], [])
    with pytest.raises(DataError, match="no images"):
        check_parity(*exported, [])


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_text("no model")
    with pytest.raises(FileError, match=r"wrong\.onnx is not"):
        evaluate_onnx(wrong, [])
    with pytest.raises(FileError, match="does not exist"):
        session(tmp_path / "gone.onnx")


def test_model_metadata_round_trips() -> None:
    metadata = ModelMetadata(
        labels=("a", "ß"), mean=(0.1, 1 / 3, 0.5), std=(0.2, 0.3, 1e-3), image_size=48
    )
    strings = metadata.to_strings()
    assert ModelMetadata.from_strings(strings | {"more": "x"}, "file") == metadata
    for name in strings:
        with pytest.raises(FileError, match=rf"m\.onnx has no '{name}' in its metadata"):
            ModelMetadata.from_strings({k: v for k, v in strings.items() if k != name}, "m.onnx")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", "[]"),
        ("labels", "[1, 2]"),
        ("labels", '"cat"'),
        ("mean", "[NaN, 0, 0]"),
        ("mean", "{}"),
        ("std", "[0.1, 0.0, 0.1]"),
        ("std", "[0.1]"),
        ("std", "[0.1, 1e-320, 0.1]"),
        ("image_size", "0"),
        ("image_size", "1000000"),
        ("image_size", "true"),
        ("image_size", "{"),
    ],
)
def test_wrong_metadata_is_refused(name: str, value: str) -> None:
    right = ModelMetadata(labels=("a",), mean=(0, 0, 0), std=(1, 1, 1), image_size=32)
    with pytest.raises(FileError, match=rf"f\.onnx.*'{name}'"):
        ModelMetadata.from_strings(right.to_strings() | {name: value}, "f.onnx")
