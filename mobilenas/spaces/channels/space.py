"""The channels space: a traceable model at other channel sizes."""

import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor, nn

from mobilenas.channel_graph import Graph, extract, load_model, resized, sizes
from mobilenas.channel_graph.models import TORCHVISION, check_allowed, check_name
from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.records import Json
from mobilenas.core.settings import check_between, counted, from_plain
from mobilenas.cost.projection import ALIGNED, SizeRange, Sizes
from mobilenas.nn.network import Network
from mobilenas.nn.weights import lay_out
from mobilenas.spaces.base import AnyArch, Arch
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.build import CellNetwork
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.build import MobileNetwork

_Size = Annotated[int, Meta(ge=1, le=65536)]

_GROWTH = 2


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model whose sizes change: a named one, or a network of another space."""

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Number of classes."""
    name: str | None = None
    """torchvision:NAME or package.module:factory."""
    mobile: MobileArch | None = None
    """A network of the mobile space."""
    cell: CellArch | None = None
    """A network of the cell space."""

    def __post_init__(self) -> None:
        """Check that exactly one of the three is given, and the ranges."""
        if sum(given is not None for given in (self.name, self.mobile, self.cell)) != 1:
            raise MobileNASError("a base is one of name, mobile and cell")
        if self.name is not None:
            check_name(self.name)
        check_between(self, "image_size", 1, 4096)
        check_between(self, "in_channels", 1, 1024)
        check_between(self, "classes", 1, 65536)

    @classmethod
    def of(cls, arch: Arch) -> "Base":
        """Return a base for a network of another space; MobileNASError for one of this space."""
        if arch.family not in _INNER:
            raise MobileNASError("it holds channel sizes of another model; start from that model")
        inner: dict[str, AnyArch] = {arch.family: arch}
        return cls(
            image_size=arch.image_size,
            in_channels=arch.in_channels,
            classes=arch.classes,
            **inner,
        )

    def __str__(self) -> str:
        return self.name or f"a network of the {'mobile' if self.mobile else 'cell'} space"

    def check_allowed(self) -> None:
        """Raise MobileNASError for a factory that only a file named (`allow_model`)."""
        if self.name is not None:
            check_allowed(self.name)

    def module(self) -> nn.Module:
        """Build the model at its own sizes; weights are drawn from torch's global generator.

        MobileNASError for a factory that only a file named (`allow_model`).
        """
        if self.mobile is not None:
            return MobileNetwork(self.mobile)
        if self.cell is not None:
            network = CellNetwork(self.cell)
            network.auxiliary = None  # the auxiliary classifier is for training only
            return network
        assert self.name is not None
        self.check_allowed()
        return load_model(
            self.name,
            classes=self.classes,
            image_size=self.image_size,
            in_channels=self.in_channels,
        )

    def resized(self, sizes: Sizes) -> nn.Module:
        """Build the model at other sizes; slices of initial weights are initial weights."""
        for name, legal in ChannelsSpace(base=self).ranges.items() if sizes else ():
            if (size := sizes.get(name, 0)) > legal.high:
                raise MobileNASError(
                    f"group {name} is to have {counted(size, 'channel')}; at most {legal.high} are "
                    "legal"
                )
        return resized(self.module(), self.graph, sizes)

    @property
    def graph(self) -> Graph:
        """Which channel sizes of the model are tied."""
        return _graph(self)

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, which is faster, if the model's code works with it.

        For example, `x.view(n, -1)` after a convolution does not.
        """
        own = self.name is not None and not self.name.startswith(TORCHVISION)
        return _memory_format(self) if own else torch.channels_last


@lru_cache(maxsize=32)
def _graph(base: Base) -> Graph:
    with torch.random.fork_rng(devices=[]):  # the drawn weights are not used
        return extract(base.module(), image_size=base.image_size, in_channels=base.in_channels)


@lru_cache(maxsize=32)
@torch.no_grad()
def _memory_format(base: Base) -> torch.memory_format:
    # not on the meta device, where convolutions lose the memory format
    with torch.random.fork_rng(devices=[]):
        model = base.module().eval()
    images = torch.zeros(2, base.in_channels, base.image_size, base.image_size)
    try:
        lay_out(model, torch.channels_last)
        model(images.to(memory_format=torch.channels_last))
    except Exception:  # of the user's code; `check_base` reports what fails in both layouts
        return torch.contiguous_format
    return torch.channels_last


@dataclass(frozen=True, kw_only=True)
class ChannelsArch:
    """A model with other channel sizes."""

    family: ClassVar[str] = "channels"

    base: Base
    """The model."""
    sizes: Sizes
    """Channels of every group that can change."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.base.image_size

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.base.in_channels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.base.classes

    def to_dict(self) -> Json:
        """Return the JSON form."""
        own = self.base.mobile or self.base.cell
        return {
            "space": "channels",
            "image_size": self.image_size,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "model": self.base.name if own is None else own.to_dict(),
            "sizes": dict(self.sizes),
        }

    @classmethod
    def from_dict(cls, data: object, source: str = "arch") -> "ChannelsArch":
        """Read the JSON form; `source` names the file in errors. `build` checks the sizes."""
        try:
            return cls._from_dict(data, source)
        except FileError:
            raise
        except MobileNASError as error:
            raise FileError(f"{source}: {error}") from error

    @classmethod
    def _from_dict(cls, data: object, source: str) -> "ChannelsArch":
        names = ("space", "image_size", "in_channels", "classes", "model", "sizes")
        if not isinstance(data, dict) or set(data) != set(names):
            raise MobileNASError(f"arch must be an object with the fields {', '.join(names)}")
        if data["space"] != "channels":
            raise MobileNASError(f"arch.space is {data['space']!r}; it must be channels")
        image_size, in_channels, classes = (
            from_plain(int, data[name], f"arch.{name}")
            for name in ("image_size", "in_channels", "classes")
        )
        model, sizes = data["model"], from_plain(dict[str, _Size], data["sizes"], "arch.sizes")
        if isinstance(model, str):
            base = Base(name=model, image_size=image_size, in_channels=in_channels, classes=classes)
        elif isinstance(model, dict) and (inner := _INNER.get(str(model.get("space")))):
            base = Base.of(inner.from_dict(model, source))
        else:
            raise MobileNASError(
                f"arch.model is {model!r}; it must be a name or an arch of the spaces "
                f"{', '.join(_INNER)}"
            )
        return cls(base=base, sizes=sizes)


_INNER: dict[str, type[MobileArch] | type[CellArch]] = {"mobile": MobileArch, "cell": CellArch}


class ChannelsNetwork(Network):
    """A model at the sizes of an arch."""

    def __init__(self, model: nn.Module, base: Base) -> None:
        super().__init__()
        self.auxiliary = None
        self.model = model
        self.memory_format = base.memory_format

    @classmethod
    def of(cls, arch: ChannelsArch) -> "ChannelsNetwork":
        """Build the model and resize it."""
        return cls(arch.base.resized(arch.sizes), arch.base)

    def layer_of(self, module: str) -> str:
        """Return the module's name in the model."""
        return module.removeprefix("model.")

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, side, side] -> logits [N, classes]."""
        if self.memory_format is torch.contiguous_format:
            x = x.contiguous()  # batches are channels last
        logits: Tensor = self.model(x)
        return logits


@dataclass(frozen=True, kw_only=True)
class ChannelsSpace:
    """All sizes of a model: multiples of 8, up to twice its own."""

    family: ClassVar[str] = "channels"

    base: Base
    """The model."""

    @property
    def ranges(self) -> dict[str, SizeRange]:
        """Legal sizes of every group that can change; MobileNASError if none can."""
        graph = self.base.graph
        free = sizes(graph)
        if not free:
            name, reason = next(iter(graph.fixed.items()))
            raise MobileNASError(
                f"no channel size of {self.base} can change: {name} is fixed because {reason}"
            )
        steps = {name: math.lcm(ALIGNED, graph.divisors[name]) for name in free}
        return {
            name: SizeRange(
                low=steps[name],
                high=-(-_GROWTH * size // steps[name]) * steps[name],
                step=steps[name],
            )
            for name, size in free.items()
        }

    def arch(self, sizes: Sizes) -> ChannelsArch:
        """Return the model at these sizes."""
        return ChannelsArch(base=self.base, sizes=dict(sizes))

    def start(self) -> dict[str, int]:
        """Return the model's own sizes."""
        return sizes(self.base.graph)

    def smallest(self) -> dict[str, int]:
        """Return the smallest legal sizes."""
        return {name: legal.smallest for name, legal in self.ranges.items()}

    def largest(self) -> dict[str, int]:
        """Return the largest legal sizes."""
        return {name: legal.largest for name, legal in self.ranges.items()}

    def random(self, source: Random) -> dict[str, int]:
        """Draw each size log-uniformly between an eighth of the largest and the largest.

        Only proportions matter, because they are scaled to a budget.
        """
        return {
            name: legal.nearest(legal.largest * 8 ** -source.random())
            for name, legal in self.ranges.items()
        }
