"""Pretrained networks against the code that the weights were trained with."""

import io
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilenas.core._torchvision import models
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import write_json
from mobilenas.cost.networks import costs
from mobilenas.spaces.base import Arch
from mobilenas.spaces.cell.genotypes import darts_v2
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build
from mobilenas.train.pretrained import SOURCES, Source, cached, load, source_of

TORCHVISION = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SIDES = (64, 75)
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def lively(module: nn.Module) -> nn.Module:
    """Give norms statistics, as training does."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module.eval()


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side)


def module_of(name: str, weights: Path | None = None, **options: Any) -> nn.Module:
    arch, state = load(name, weights=weights, **options)
    module = build(arch)
    module.load_state_dict(state)
    return module.eval()


def random_lite(name: str, path: Path) -> Path:
    """Write a file of the form that the package has, with random weights."""
    source = SOURCES[name]
    arch = source.arch(64, 1000)
    names = source.names(arch)
    state = {}
    for key, value in lively(build(arch)).state_dict().items():
        layer, _, tensor = key.rpartition(".")
        state[f"{names[layer]}.{tensor}"] = value
    torch.save(state, path)
    return path


def same(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """TensorFlow's SAME: tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2."""
    side, kernel = x.shape[-1], weight.shape[-1]
    total = max((ceil(side / stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, None, stride, groups=groups)


def lite_logits(state: dict[str, Tensor], strides: list[int], x: Tensor) -> Tensor:
    """EfficientNet-Lite in evaluation mode, from its file alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var"))
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.batch_norm(x, *values, scale, shift, training=False, eps=1e-3)

    x = F.relu6(norm(same(x, state["_conv_stem.weight"], 2), "_bn0"))
    for index, stride in enumerate(strides):
        block, h = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in state:
            h = F.relu6(norm(same(h, state[f"{block}._expand_conv.weight"], 1), f"{block}._bn0"))
        depthwise = state[f"{block}._depthwise_conv.weight"]
        h = F.relu6(norm(same(h, depthwise, stride, h.shape[1]), f"{block}._bn1"))
        h = norm(same(h, state[f"{block}._project_conv.weight"], 1), f"{block}._bn2")
        x = x + h if stride == 1 and x.shape == h.shape else h
    x = F.relu6(norm(same(x, state["_conv_head.weight"], 1), "_bn1"))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


def lite_strides(name: str) -> list[int]:
    depth = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.1, "efficientnet_lite2": 1.2}[name]
    stages = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2))
    strides = []
    for repeats, stride in stages:
        count = repeats if repeats == 1 else ceil(repeats * depth)
        strides += [stride] + [1] * (count - 1)
    return [*strides, 1]


@torch.no_grad()
def check_lite(name: str, file: Path, weights: Path | None, side: int) -> None:
    state, x = torch.load(file, weights_only=True), images(side)
    expected = lite_logits(state, lite_strides(name), x)
    assert expected.std() > 0.1
    torch.testing.assert_close(module_of(name, weights)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "side"), [(LITE[0], 64), *((name, 75) for name in LITE)])
def test_lite_gives_the_logits_of_a_plain_forward_pass(
    name: str, side: int, tmp_path: Path
) -> None:
    file = random_lite(name, tmp_path / "lite.pth")
    check_lite(name, file, file, side)


@pytest.mark.parametrize("name", [LITE[0], *(pytest.param(n, marks=SLOW) for n in LITE[1:])])
def test_lite_gives_these_logits_with_the_weights_of_the_package(name: str) -> None:
    file = SOURCES[name].find()
    if file is None:
        pytest.skip(f"{SOURCES[name].module} is not installed")
    check_lite(name, file, None, SOURCES[name].image_size)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_torchvisions_networks_give_its_logits(name: str, side: int, tmp_path: Path) -> None:
    theirs, file, x = lively(getattr(models, name)()), tmp_path / "weights", images(side)
    if side == SIDES[0]:
        save_file(theirs.state_dict(), file)
    else:  # torchvision's own files are of either kind
        torch.save(theirs.state_dict(), file, _use_new_zipfile_serialization=name[-1] == "2")
    torch.testing.assert_close(module_of(name, file)(x), theirs(x), rtol=1e-4, atol=1e-4)


def of_timm(key: str) -> str:
    """Return timm's name of a tensor of efficientnet_lite_pytorch's Lite0."""
    found = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)(_conv)?\.(\w+)", key)
    if found is None:
        outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head"}
        outer |= {"_bn1": "bn2", "_fc": "classifier"}
        layer, _, tensor = key.rpartition(".")
        return f"{outer[layer]}.{tensor}"
    places = [(stage, block) for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(n)]
    stage, block = places[int(found[1])]
    parts = {"expand": "conv_pw", "bn0": "bn1", "depthwise": "conv_dw", "bn1": "bn2"}
    parts |= {"project": "conv_pwl", "bn2": "bn3"}
    if stage == 0:
        parts = {"depthwise": "conv_dw", "bn1": "bn1", "project": "conv_pw", "bn2": "bn2"}
    return f"blocks.{stage}.{block}.{parts[found[2]]}.{found[4]}"


def test_files_of_timm_hold_the_same_networks(tmp_path: Path) -> None:
    lite, timm = random_lite("efficientnet_lite0", tmp_path / "lite.pth"), tmp_path / "timm"
    state = torch.load(lite, weights_only=True)
    save_file({of_timm(key): value for key, value in state.items()}, timm)
    assert "blocks.0.0.conv_pw.weight" in {of_timm(key) for key in state}
    arch, given = load("efficientnet_lite0", weights=lite)
    other, found = load("tf_efficientnet_lite0", weights=timm)
    assert other == arch
    assert all(torch.equal(found[key], value) for key, value in given.items())


@pytest.mark.parametrize("name", SOURCES)
def test_params_and_flops_are_those_of_the_arch(name: str) -> None:
    source = SOURCES[name]
    exact = costs(source.arch(source.image_size, source.classes))
    assert (exact.params, exact.flops) == (source.params, source.flops)


@pytest.mark.parametrize("name", TORCHVISION)
def test_files_and_accuracies_are_torchvisions(name: str) -> None:
    theirs, source = models.get_model_weights(name).DEFAULT, SOURCES[name]
    transform = theirs.transforms()
    assert source.url == theirs.url
    assert source.top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert (source.mean, source.std) == (tuple(transform.mean), tuple(transform.std))
    assert [source.image_size] == transform.crop_size


@pytest.mark.parametrize(
    "environment", [{}, {"XDG_CACHE_HOME": "~/c"}, {"XDG_CACHE_HOME": "/c", "TORCH_HOME": "~/t"}]
)
def test_the_cache_is_torchvisions(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert cached("https://a.b/c-12.pth") == Path(torch.hub.get_dir()) / "checkpoints/c-12.pth"


def test_small_images_keep_the_strides_that_the_weights_were_trained_with(tmp_path: Path) -> None:
    save_file(models.mobilenet_v2().state_dict(), tmp_path / "v2")
    arch, _ = load("mobilenet_v2", weights=tmp_path / "v2", image_size=32)
    large, _ = load("mobilenet_v2", weights=tmp_path / "v2")
    assert (arch.image_size, large.image_size) == (32, 224)
    assert replace(arch, image_size=224) == large


def test_only_the_last_layer_is_drawn_for_other_classes(tmp_path: Path) -> None:
    theirs = lively(models.mobilenet_v3_small())
    save_file(theirs.state_dict(), tmp_path / "v3")
    options: Any = {"name": "mobilenet_v3_small", "weights": tmp_path / "v3"}
    _, whole = load(**options)
    before = torch.random.get_rng_state()
    arch, state = load(**options, classes=12, seed=1)
    _, again = load(**options, classes=12, seed=1)
    _, other = load(**options, classes=12, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    drawn = [key for key in state if not torch.equal(state[key], whole[key])]
    assert drawn == ["classifier.3.weight", "classifier.3.bias"]
    assert (arch.classes, state["classifier.3.weight"].shape) == (12, (12, 1024))
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert not torch.equal(state["classifier.3.weight"], other["classifier.3.weight"])
    build(arch).load_state_dict(state)


class Code:
    """Runs when it is unpickled."""

    ran = False

    @classmethod
    def run(cls) -> None:
        cls.ran = True

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return Code.run, ()


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def refused() -> Iterator[tuple[bytes, str]]:
    code = "is refused: it holds code or other objects besides tensors"
    yield saved({"features.0.0.weight": Code()}), code
    yield saved({"a": Code()}, _use_new_zipfile_serialization=False), code
    yield pickle.dumps(Code()), code
    yield saved([torch.zeros(1)]), "holds a list; it must hold a state dict"
    yield saved({"model": {}, "epoch": 3}), "is not a state dict: 'model' is a dict, not a dense"
    yield (
        saved({"a": torch.eye(2).to_sparse()}),
        "is not a state dict: 'a' is a Tensor, not a dense",
    )
    yield saved({"a": torch.zeros(9)})[:-40], "is not a complete torch.save file"
    yield saved({"a": torch.zeros(1)}), "does not fit mobilenet_v2: the file has no features.0.0.we"
    yield b"\x80\x02\x00\x00\x00\x00\x00\x00{", "is not a complete safetensors file"
    yield b"text", "is not a complete safetensors file"


@pytest.mark.parametrize(("content", "message"), list(refused()))
def test_what_is_no_state_dict_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(FileError) as raised:
        load("mobilenet_v2", weights=file)
    assert str(raised.value).startswith(f"{file} {message}")
    assert not Code.ran


def test_weights_of_another_network_are_named_as_in_the_file(tmp_path: Path) -> None:
    state = models.mobilenet_v3_small().state_dict()
    save_file(state, tmp_path / "small")
    with pytest.raises(FileError, match=r"large: the file has no features\.1\.block\.1\.0\.weight"):
        load("mobilenet_v3_large", weights=tmp_path / "small")
    save_file({f"module.{key}": value for key, value in state.items()}, tmp_path / "prefix")
    with pytest.raises(FileError, match=r"no features\.0\.0\.weight but module\.features\.0\.0\.w"):
        load("mobilenet_v3_small", weights=tmp_path / "prefix")


def run_folder(folder: Path, arch: Arch, state: dict[str, Tensor]) -> str:
    images = {"image_size": 32, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "flip": True}
    write_json(folder / "run.json", {"seed": 0, "data": images})
    write_json(folder / "arch.json", {"arch": arch.to_dict(), "seed": 0})
    save_file(state, folder / "model.safetensors")
    return str(folder)


def test_a_run_folder_is_a_pretrained_network(tmp_path: Path) -> None:
    arch = mobilenet_v3_small(0.25, 32, 7)
    state = lively(build(arch)).state_dict()
    name = run_folder(tmp_path, arch, state)
    source = source_of(name)
    assert (source.mean, source.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (source.params, source.flops) == (costs(arch).params, costs(arch).flops)
    own, given = load(name)
    assert own == arch
    assert all(torch.equal(given[key], value) for key, value in state.items())
    other, drawn = load(name, classes=4, image_size=48)
    assert other == replace(arch, classes=4, image_size=48)
    assert drawn["classifier.3.weight"].shape[0] == 4


def test_a_run_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"arch\.json does not exist"):
        load(str(tmp_path))
    arch = mobilenet_v3_small(0.25, 32, 7)
    state = build(replace(arch, classes=8)).state_dict()
    name = run_folder(tmp_path, arch, state)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        FileError, match=r"not on this machine: .*model\.safetensors does not exist"
    ):
        load(name)
    with pytest.raises(FileError, match=r"classifier\.3\.weight has shape \[8, 256\]"):
        load(run_folder(tmp_path, arch, state))
    with pytest.raises(FileError, match=r"arch\.json is a network of the cell space; only"):
        load(run_folder(tmp_path, darts_v2(), state))


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(MobileNASError, match=r"'resnet'.* efficientnet_lite0, .*mobilenet_v2"):
        load("resnet")


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    SOURCES.register("absent", replace(SOURCES["efficientnet_lite0"], module="not_installed_here"))
    try:
        with pytest.raises(FileError, match=r"absent are not .* pip install 'mobilenas\[pretr"):
            load("absent")
    finally:
        del SOURCES["absent"]


def test_without_a_file_the_address_and_the_place_are_told(tmp_path: Path) -> None:
    url, file = SOURCES["mobilenet_v2"].url, "torch/hub/checkpoints/mobilenet_v2-7ebf99e0.pth"
    with pytest.raises(FileError) as raised:
        load("mobilenet_v2")
    assert f"save {url} as {tmp_path / file}" in str(raised.value)
    with pytest.raises(FileError, match=r"name a file of https://huggingface\.co/timm/tf_effi"):
        load("tf_efficientnet_lite0")


def test_torchvisions_cache_is_used(tmp_path: Path) -> None:
    theirs = lively(models.mobilenet_v2())
    file = cached(SOURCES["mobilenet_v2"].url)
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    assert SOURCES["mobilenet_v2"].find() == file
    assert torch.equal(load("mobilenet_v2")[1]["stem.0.weight"], theirs.features[0][0].weight)


def test_weights_are_downloaded_only_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, str]] = []

    def download(url: str, path: str, checksum: str, progress: bool) -> None:
        calls.append((url, path, checksum))
        torch.save(models.mobilenet_v2().state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(FileError, match="are not on this machine"):
        load("mobilenet_v2")
    assert not calls
    load("mobilenet_v2", download=True)
    load("mobilenet_v2", download=True)
    url = SOURCES["mobilenet_v2"].url
    assert calls == [(url, str(cached(url)), "7ebf99e0")]


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash")])
def test_a_failing_download_names_the_file_and_its_place(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = SOURCES["mobilenet_v2"].url
    with pytest.raises(FileError) as raised:
        load("mobilenet_v2", download=True)
    assert f"cannot download {url}" in str(raised.value)
    assert f"save {url} as {cached(url)}" in str(raised.value)


def test_an_image_size_that_no_arch_has_is_refused(tmp_path: Path) -> None:
    for side in (0, 3, 5000):
        with pytest.raises(MobileNASError, match=f"image_size is {side}; it must be a whole num"):
            load("mobilenet_v2", image_size=side)


def test_every_source_says_what_it_is() -> None:
    for source in SOURCES.values():
        assert isinstance(source, Source)
        assert source.citation and source.license and source.top1 is not None
    assert source_of("mobilenet_v2") is SOURCES["mobilenet_v2"]
