"""Fine-tuning with 8 bits simulated: the same rounding as in the file, and what it wins."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mobilenas.data import DataSettings, ImageData, batches, load_data
from mobilenas.errors import MobileNASError
from mobilenas.export import qat
from mobilenas.export.int8 import quantize_static_qdq
from mobilenas.export.onnx import evaluate_onnx, export_onnx
from mobilenas.export.qat import check_installed, fine_tune, fold_norms
from mobilenas.profiling.session import session
from mobilenas.spaces import MobileArch
from mobilenas.train import Recipe
from mobilenas.train.trainer import Trainer

BLOCK = {"kernel": 3, "squeeze": 0, "activation": "hard_swish"}
ARCH = MobileArch.from_dict(
    {
        "space": "mobile",
        "image_size": 8,
        "in_channels": 3,
        "classes": 10,
        "stem": {"channels": 8, "stride": 1, "activation": "hard_swish"},
        "blocks": [
            BLOCK | {"hidden": 24, "out": 16, "stride": 1, "squeeze": 8},
            BLOCK | {"hidden": 48, "out": 16, "stride": 2},
        ],
        "head": {"channels": 64, "hidden": 0, "activation": "hard_swish", "dropout": 0.0},
    }
)
RECIPE = Recipe(epochs=6, batch_size=32, learning_rate=0.05, crop_padding=0, label_smoothing=0)

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed: mobilenas[qat]"
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataSettings(source="digits"))


@pytest.fixture(scope="module")
def trained(data: ImageData) -> nn.Module:
    """A network with one channel whose weights dwarf the others' where tensors share a scale."""
    trainer = Trainer(ARCH, data, RECIPE, seed=0)
    for _ in range(RECIPE.epochs):
        trainer.run_epoch()
    model = trainer.model
    state = model.state_dict()
    state["blocks.1.expand.0.weight"][0] *= 30
    state["blocks.1.expand.1.running_mean"][0] *= 30
    state["blocks.1.expand.1.running_var"][0] *= 900
    state["blocks.1.expand.1.weight"][0] *= 30
    state["blocks.1.expand.1.bias"][0] *= 30
    state["blocks.1.depthwise.0.weight"][0] /= 30
    return model


def eight_bits(model: nn.Module, data: ImageData, path: Path, *, per_channel: bool) -> Path:
    export_onnx(model, path, image_size=8, channels=3, metadata={})
    given = batches(data.train, data, batch_size=64, seed=None)
    images = (image[None].numpy() for x, _ in given for image in x)
    out = path.with_suffix(".int8.onnx")
    quantize_static_qdq(path, out, images, per_channel=per_channel)
    return out


def passes(data: ImageData) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return batches(data.train, data, batch_size=32, seed=None)


def loss_of(path: Path, data: ImageData) -> float:
    runner = session(path)
    total = 0.0
    for x, y in passes(data):
        rows = [torch.tensor(runner.run(None, {"image": image[None].numpy()})[0]) for image in x]
        total += F.cross_entropy(torch.cat(rows), y, reduction="sum").item()
    return total / len(data.train)


def test_the_folded_network_is_the_same_function(trained: nn.Module, data: ImageData) -> None:
    folded = fold_norms(trained)
    assert any(isinstance(part, nn.BatchNorm2d) for part in trained.modules())
    assert not any(isinstance(part, nn.BatchNorm2d | nn.Hardswish) for part in folded.modules())
    x, _ = next(passes(data))
    assert torch.allclose(folded(x), trained(x), atol=1e-4)


@needs_torchao
@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_is_simulated_is_what_the_file_does(
    trained: nn.Module,
    data: ImageData,
    per_channel: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qat, "RATE_SHARE", 0)
    losses: list[float] = []
    same = fine_tune(
        trained,
        data,
        RECIPE,
        epochs=1,
        per_channel=per_channel,
        seed=0,
        heard=lambda epoch, loss: losses.append(loss),
    )
    x, _ = next(passes(data))
    assert torch.allclose(same(x), trained(x), atol=1e-4)  # at a rate of 0
    file = eight_bits(trained, data, tmp_path / "m.onnx", per_channel=per_channel)
    assert losses == pytest.approx([loss_of(file, data)], rel=0.15)
    if not per_channel:  # rounding costs something, which only a simulation of it shows
        assert losses[0] > 1.5 * loss_of(tmp_path / "m.onnx", data)


@needs_torchao
@pytest.mark.slow
def test_fine_tuning_wins_back_what_a_common_scale_loses(
    trained: nn.Module, data: ImageData, tmp_path: Path
) -> None:
    def top1(model: nn.Module, name: str) -> float:
        file = eight_bits(model, data, tmp_path / name, per_channel=False)
        return evaluate_onnx(file, batches(data.test, data, batch_size=64, seed=None))

    tuned, again = (
        fine_tune(trained, data, RECIPE, epochs=3, per_channel=False, seed=0) for _ in range(2)
    )
    before, after = top1(trained, "before.onnx"), top1(tuned, "after.onnx")
    assert after > before + 2
    for ours, theirs in zip(tuned.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_without_torchao_the_extra_is_named(
    trained: nn.Module, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MobileNASError, match=r"pip install 'mobilenas\[qat\]'"):
        fine_tune(trained, data, RECIPE, epochs=1, per_channel=True, seed=0)
    with pytest.raises(MobileNASError, match=r"pip install 'mobilenas\[qat\]'"):
        check_installed()
