"""Fine-tuning with 8 bits simulated: the same rounding as in the file, and what it wins."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mobilenas.core.errors import MobileNASError
from mobilenas.data import DataSettings, ImageData, batches, load_data
from mobilenas.onnx import qat
from mobilenas.onnx.export import export_onnx
from mobilenas.onnx.int8 import quantize_static_qdq
from mobilenas.onnx.qat import check_installed, fine_tune, fold_norms
from mobilenas.onnx.session import session
from mobilenas.spaces.mobile.arch import MobileArch
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
APART = 60
"""So much larger are the weights of one channel: one scale for all costs much on any processor."""

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
    state["blocks.1.expand.0.weight"][0] *= APART
    state["blocks.1.expand.1.running_mean"][0] *= APART
    state["blocks.1.expand.1.running_var"][0] *= APART**2
    state["blocks.1.expand.1.weight"][0] *= APART
    state["blocks.1.expand.1.bias"][0] *= APART
    state["blocks.1.depthwise.0.weight"][0] /= APART
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
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    x, _ = next(passes(data))
    assert torch.allclose(same(x), trained(x), atol=1e-4)  # at a rate of 0
    file = eight_bits(trained, data, tmp_path / "m.onnx", per_channel=per_channel)
    # kernels of 8 bits saturate where the processor has no instruction for them
    assert 0.5 < losses[0] / loss_of(file, data) < 2
    # rounding costs something, which only a simulation of it shows
    assert losses[0] > 1.5 * loss_of(tmp_path / "m.onnx", data)


@needs_torchao
@pytest.mark.slow
def test_fine_tuning_wins_back_what_a_common_scale_loses(
    trained: nn.Module, data: ImageData, tmp_path: Path
) -> None:
    def loss(model: nn.Module, name: str) -> float:
        return loss_of(eight_bits(model, data, tmp_path / name, per_channel=False), data)

    def tuned(epochs: int) -> nn.Module:
        return fine_tune(trained, data, RECIPE, epochs=epochs, per_channel=False, seed=0)

    # of the images that it trains on: what others gain is chance
    assert loss(tuned(6), "after.onnx") < 0.75 * loss(trained, "before.onnx")
    for ours, theirs in zip(tuned(1).parameters(), tuned(1).parameters(), strict=True):
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
