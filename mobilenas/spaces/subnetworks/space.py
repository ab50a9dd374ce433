"""Subnetworks: fewer hidden channels, smaller kernels, fewer blocks, smaller images.

The decisions of once-for-all networks (Cai et al. 2020, arXiv 1908.09791), for any chain of
inverted residuals. Every network is a part of the whole one, and inherits that part of its weights.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Annotated, ClassVar

from msgspec import Meta

from mobilenas.core.errors import MobileNASError
from mobilenas.nn import make_divisible
from mobilenas.nn.costs import output_side
from mobilenas.spaces.mobile.arch import Block, MobileArch

_Index = Annotated[int, Meta(ge=0, le=63)]
_Picks = tuple[_Index, ...]

DECISIONS = ("side", "hidden", "kernel", "squeeze", "depth")
"""Fields of a `Choice`: `side` once, `depth` per stage, the others per block."""
_MAX_CHANGES = 3
_MAX_TILT = 4.0
"""Maximum log odds of the largest option against the smallest, in random networks."""
_MIN_KERNEL = 3


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A block of the whole network, with its options."""

    block: Block
    """The block in the whole network."""
    in_channels: int
    """Channels of its input."""
    stage: int
    """Index of its stage."""
    place: int
    """Index in its stage; it exists if the stage is deep enough."""
    hidden: tuple[int, ...]
    """Channels of the depthwise convolution, increasing; the last is the block's own."""
    kernels: tuple[int | str, ...]
    """Kernel sizes, increasing; the last is the block's own."""
    squeeze: tuple[bool, ...]
    """Whether it has squeeze-excite; the last is the block's own."""

    def parts(self) -> Iterator[tuple[tuple[int, int, int], Block]]:
        """Yield every combination of options as indices for `part`, with its block."""
        hidden, kernels, squeeze = map(range, map(len, (self.hidden, self.kernels, self.squeeze)))
        for picks in product(hidden, kernels, squeeze):
            yield picks, self.part(*picks)

    def part(self, hidden: int, kernel: int, squeeze: int) -> Block:
        """Return the block with the options at these indices."""
        return replace(
            self.block,
            hidden=self.hidden[hidden],
            kernel=self.kernels[kernel],
            squeeze=self.block.squeeze if self.squeeze[squeeze] else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option for every decision of a space, as indices."""

    side: _Picks
    """A single index into the space's sides."""
    hidden: _Picks
    """Per block of the whole network, indices into the slot's hidden channels."""
    kernel: _Picks
    """Per block, indices into the slot's kernels."""
    squeeze: _Picks
    """Per block, indices into the slot's squeeze options."""
    depth: _Picks
    """Per stage, the number of its blocks minus one."""

    def alike(self, other: "Choice") -> float:
        """Return the share of equal decisions."""
        return fmean(
            one == two
            for name in DECISIONS
            for one, two in zip(getattr(self, name), getattr(other, name), strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class SubnetworkSpace:
    """The subnetworks of one network."""

    family: ClassVar[str] = "subnetworks"

    whole: MobileArch
    """The whole network, at the largest image size."""
    sides: Annotated[tuple[Annotated[int, Meta(ge=8, le=4096)], ...], Meta(min_length=1)]
    """Image sizes (sides in pixels), increasing; the last is the whole network's."""
    shares: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1)] = (
        1 / 3,
        1 / 2,
        2 / 3,
        5 / 6,
        1.0,
    )
    """Options for hidden channels, as shares of a block's own."""

    def __post_init__(self) -> None:
        """Check that the whole network belongs to the space."""
        if list(self.sides) != sorted(set(self.sides)) or self.sides[-1] != self.whole.image_size:
            raise MobileNASError(
                f"sides is {list(self.sides)}; it must increase to {self.whole.image_size}"
            )
        if not self.whole.is_plain:
            raise MobileNASError("only a chain of inverted residuals has subnetworks to search")
        if list(self.shares) != sorted(set(self.shares)) or self.shares[-1] != 1:
            raise MobileNASError(f"shares is {list(self.shares)}; it must increase to 1")

    @property
    def image_size(self) -> int:
        """Largest image size, side in pixels."""
        return self.whole.image_size

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.whole.classes

    @property
    def operations(self) -> tuple[str, ...]:
        """Registered operations in the whole network."""
        kernels = (block.kernel for block in self.whole.blocks)
        return tuple(dict.fromkeys(kernel for kernel in kernels if isinstance(kernel, str)))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All blocks of the whole network, with their options."""
        slots = list[Slot]()
        before = self.whole.stem.channels
        for block in self.whole.blocks:
            # a block that changes the shape begins a stage; later ones can be omitted
            begins = block.stride > 1 or block.out != before or not slots
            last = slots[-1] if slots else None
            sizes = {make_divisible(block.hidden * share) for share in self.shares}
            slots.append(
                Slot(
                    block=block,
                    in_channels=before,
                    stage=0 if last is None else last.stage + begins,
                    place=0 if begins or last is None else last.place + 1,
                    # without an expansion layer, the hidden channels are the input's
                    hidden=(block.hidden,)
                    if block.hidden == before
                    else (
                        *sorted(n for n in sizes if n < block.hidden and n != before),
                        block.hidden,
                    ),
                    kernels=(block.kernel,)
                    if isinstance(block.kernel, str)
                    else tuple(range(min(_MIN_KERNEL, block.kernel), block.kernel + 1, 2)),
                    squeeze=(False, True) if block.squeeze else (False,),
                )
            )
            before = block.out
        return tuple(slots)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each stage of the whole network."""
        counts = [0] * (self.slots[-1].stage + 1)
        for slot in self.slots:
            counts[slot.stage] += 1
        return tuple(counts)

    def input_sides(self, image_size: int) -> list[int]:
        """Return the side of every block's input, and of the head's."""
        sides = [output_side(image_size, self.whole.stem.stride)]
        for slot in self.slots:
            sides.append(output_side(sides[-1], slot.block.stride))
        return sides

    def keeps(self, choice: Choice, number: int) -> bool:
        """Whether the network of a choice has block `number`."""
        slot = self.slots[number]
        return slot.place <= choice.depth[slot.stage]

    def arch(self, choice: Choice) -> MobileArch:
        """Return the network of a choice."""
        return replace(
            self.whole,
            image_size=self.sides[choice.side[0]],
            blocks=tuple(
                slot.part(choice.hidden[number], choice.kernel[number], choice.squeeze[number])
                for number, slot in enumerate(self.slots)
                if self.keeps(choice, number)
            ),
        )

    def choice(self, arch: MobileArch) -> Choice:
        """Return the choice of `arch`; MobileNASError if it is not a subnetwork."""
        picks = {name: [n - 1 for n in self.options(name)] for name in DECISIONS}
        picks["side"] = [n for n, side in enumerate(self.sides) if side == arch.image_size]
        picks["depth"], stage, place, before = [-1] * len(self.depths), -1, 0, -1
        starts = [number for number, slot in enumerate(self.slots) if slot.place == 0]
        for block in arch.blocks:
            begins = block.stride > 1 or block.out != before or stage < 0
            stage, place, before = stage + begins, 0 if begins else place + 1, block.out
            if stage == len(starts) or place == self.depths[stage]:
                break
            number = starts[stage] + place
            slot = self.slots[number]
            if block.hidden in slot.hidden and block.kernel in slot.kernels:
                picks["hidden"][number] = slot.hidden.index(block.hidden)
                picks["kernel"][number] = slot.kernels.index(block.kernel)
                picks["squeeze"][number] = int(block.squeeze > 0) if slot.block.squeeze else 0
                picks["depth"][stage] = place
        choice = choice_of(picks)
        if not self.is_legal(choice) or self.arch(choice) != arch:
            raise MobileNASError("the arch is not a subnetwork of what its run started from")
        return choice

    @property
    def kept_edges(self) -> int:
        """0, because the networks are chains."""
        return 0

    def skips(self, choice: Choice) -> dict[str, int]:
        """Return the number of omitted blocks."""
        return {"blocks": sum(self.depths) - sum(choice.depth) - len(choice.depth)}

    def options(self, name: str) -> list[int]:
        """Return the number of options of each decision of a kind."""
        if name == "side":
            return [len(self.sides)]
        if name == "depth":
            return list(self.depths)
        places = {"hidden": "hidden", "kernel": "kernels", "squeeze": "squeeze"}
        return [len(getattr(slot, places[name])) for slot in self.slots]

    def is_legal(self, choice: Choice) -> bool:
        """Whether a choice has a legal option for every decision."""
        for name in DECISIONS:
            picks, options = getattr(choice, name), self.options(name)
            if len(picks) != len(options):
                return False
            if not all(0 <= pick < count for pick, count in zip(picks, options, strict=True)):
                return False
        return True

    def mutated(self, choice: Choice, source: random.Random) -> Choice:
        """Return a choice with one to three decisions redrawn."""
        fresh, changes = self.random(source), dict[str, tuple[int, ...]]()
        for _ in range(source.randint(1, _MAX_CHANGES)):
            name = source.choice(DECISIONS)
            row = list(changes.get(name, getattr(choice, name)))
            place = source.randrange(len(row))
            row[place] = getattr(fresh, name)[place]
            changes[name] = tuple(row)
        return replace(choice, **changes)

    def random(self, source: random.Random) -> Choice:
        """Draw the image size, then a tilt to large or small options, then all other decisions.

        Uniform draws are about half of the whole network at any image size, so hardly any would use
        and meet a budget.
        """
        tilt = source.uniform(-_MAX_TILT, _MAX_TILT)

        def pick(options: int) -> int:
            odds = [math.exp(tilt * n / max(1, options - 1)) for n in range(options)]
            return source.choices(range(options), odds)[0]

        return replace(self._pick(pick), side=(source.randrange(len(self.sides)),))

    def smallest(self) -> Choice:
        """Return the choice with the cheapest option of every decision."""
        return self._pick(lambda options: 0)

    def largest(self) -> Choice:
        """Return the whole network at the largest image size."""
        return self._pick(lambda options: options - 1)

    def distance(self, one: Choice, other: Choice) -> int:
        """Return the number of blocks in which two networks differ; all if the image sizes do."""
        if one.side != other.side:
            return len(self.slots)
        return sum(self._in_slot(one, n) != self._in_slot(other, n) for n in range(len(self.slots)))

    def _in_slot(self, choice: Choice, number: int) -> tuple[int, int, int] | None:
        if not self.keeps(choice, number):
            return None
        return choice.hidden[number], choice.kernel[number], choice.squeeze[number]

    def _pick(self, pick: Callable[[int], int]) -> Choice:
        return choice_of({name: [pick(n) for n in self.options(name)] for name in DECISIONS})


def choice_of(picks: Mapping[str, list[int]]) -> Choice:
    """Make a choice from one index per decision."""
    return Choice(**{name: tuple(picks[name]) for name in DECISIONS})
