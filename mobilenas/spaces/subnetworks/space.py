"""Subnetworks: fewer hidden channels, smaller kernels, fewer blocks, smaller images.

If searched, also narrower stages. The decisions are those of once-for-all networks (Cai et al.
2020, arXiv 1908.09791), for any chain of inverted residuals. Every network is a part of the whole
one, and inherits that part of its weights.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import ADDED
from mobilenas.nn import make_divisible
from mobilenas.nn.costs import output_side
from mobilenas.spaces.mobile.arch import Block, MobileArch

_Index = Annotated[int, Meta(ge=0, le=63)]
_Picks = tuple[_Index, ...]
_Shares = Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1)]
SlotPicks = tuple[int, int, int, int, int]
"""Indices of a block's options: input, output, hidden channels, kernel, squeeze."""

DECISIONS = ("side", "hidden", "kernel", "squeeze", "depth", "width")
"""Fields of a `Choice`: `side` once, `depth` and `width` per stage, the others per block."""
_MAX_CHANGES = 3
_MAX_TILT = 4.0
"""Maximum log odds of the largest option against the smallest, in random networks."""
_MIN_KERNEL = 3


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A block of the whole network, with its options."""

    block: Block
    """The block in the whole network."""
    inputs: tuple[int, ...]
    """Options for the channels of its input, increasing; the last is the whole network's."""
    outputs: tuple[int, ...]
    """Options for the channels of its output, likewise."""
    before: int | None
    """Index of the stage whose width its input has; None for a stem of fixed width."""
    stage: int
    """Index of its stage."""
    position: int
    """Index in its stage; it exists if the stage is deep enough."""
    hidden: tuple[int, ...]
    """Options for the hidden channels, increasing; the last is the block's own."""
    kernels: tuple[int | str, ...]
    """Options for the kernel size, increasing; the last is the block's own."""
    squeeze: tuple[bool, ...]
    """Options for squeeze-excite; the last is the block's own."""

    @property
    def expands(self) -> bool:
        """Whether it has an expansion layer; without one, the hidden channels are the input's."""
        return self.block.hidden != self.inputs[-1]

    def picks(self) -> Iterator[SlotPicks]:
        """Yield every combination of options."""
        inputs, outputs = range(len(self.inputs)), range(len(self.outputs))
        hidden, kernels, squeeze = map(range, map(len, (self.hidden, self.kernels, self.squeeze)))
        for picks in product(inputs, outputs, hidden, kernels, squeeze):
            if self.before != self.stage or picks[0] == picks[1]:
                yield picks

    def part(self, picks: SlotPicks) -> Block:
        """Return the block with these options."""
        entering, out, hidden, kernel, squeeze = picks
        return replace(
            self.block,
            hidden=self.hidden[hidden] if self.expands else self.inputs[entering],
            out=self.outputs[out],
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
    width: _Picks | UnsetType = field(default=UNSET, metadata=ADDED)
    """Per stage, indices into the space's widths; unset where they are not searched."""

    def alike(self, other: "Choice") -> float:
        """Return the share of equal decisions."""
        return fmean(
            one == two
            for name in DECISIONS
            if getattr(self, name) is not UNSET
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
    shares: _Shares = (1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
    """Options for hidden channels, as shares of a block's own."""
    stage_shares: _Shares | UnsetType = field(default=UNSET, metadata=ADDED)
    """Options for the widths of stages, as shares of their own; unset: they are not searched."""

    def __post_init__(self) -> None:
        """Check that the whole network belongs to the space."""
        if list(self.sides) != sorted(set(self.sides)) or self.sides[-1] != self.whole.image_size:
            raise MobileNASError(
                f"sides is {list(self.sides)}; it must increase to {self.whole.image_size}"
            )
        if not self.whole.is_plain:
            raise MobileNASError("only a chain of inverted residuals has subnetworks to search")
        for name in ("shares", "stage_shares"):
            shares = getattr(self, name)
            if shares is not UNSET and (list(shares) != sorted(set(shares)) or shares[-1] != 1):
                raise MobileNASError(f"{name} is {list(shares)}; it must increase to 1")

    @property
    def decisions(self) -> tuple[str, ...]:
        """The kinds of decisions."""
        return DECISIONS[:-1] if self.stage_shares is UNSET else DECISIONS

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
    def _positions(self) -> tuple[tuple[int, int], ...]:
        """Stage of every block, and its index in the stage."""
        positions, before = list[tuple[int, int]](), self.whole.stem.channels
        for block in self.whole.blocks:
            # a block that changes the shape begins a stage; later ones can be omitted
            begins = block.stride > 1 or block.out != before
            stage, position = positions[-1] if positions else (0, -1)
            positions.append((stage + 1, 0) if begins and positions else (stage, position + 1))
            before = block.out
        return tuple(positions)

    @property
    def stem_stage(self) -> int | None:
        """The stage whose width the stem has, since a shortcut ties them; None without one."""
        first = self.whole.blocks[0]
        return 0 if first.stride == 1 and first.out == self.whole.stem.channels else None

    @cached_property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Options for the channels between the blocks of each stage; the last is the stage's own.

        None of them adds a shortcut, or removes an expansion layer.
        """
        blocks, found = self.whole.blocks, list[tuple[int, ...]]([(self.whole.stem.channels,)])
        for stage in range(self._positions[-1][0] + 1):
            numbers = [number for number, (of, _) in enumerate(self._positions) if of == stage]
            first, is_tied = blocks[numbers[0]], stage == self.stem_stage
            readers = blocks[numbers[0] + (not is_tied) : numbers[-1] + 2]
            taken = {channels for block in readers for channels in (block.hidden, block.out)}
            if first.stride == 1 and not is_tied:
                taken |= set(found[-1])
            shares = () if isinstance(self.stage_shares, UnsetType) else self.stage_shares
            sizes = {make_divisible(first.out * share) for share in shares} - taken
            found.append((*sorted(size for size in sizes if size < first.out), first.out))
        return tuple(found[1:])

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Options for the stem's channels."""
        tied = self.stem_stage
        return (self.whole.stem.channels,) if tied is None else self.widths[tied]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All blocks of the whole network, with their options."""
        slots = list[Slot]()
        before, inputs = self.stem_stage, self.stem_widths
        for block, (stage, position) in zip(self.whole.blocks, self._positions, strict=True):
            sizes = {make_divisible(block.hidden * share) for share in self.shares}
            kept = sorted(n for n in sizes if n < block.hidden and n not in inputs)
            slots.append(
                Slot(
                    block=block,
                    inputs=inputs,
                    outputs=self.widths[stage],
                    before=before,
                    stage=stage,
                    position=position,
                    # without an expansion layer, the hidden channels are the input's
                    hidden=(*(kept if block.hidden != inputs[-1] else ()), block.hidden),
                    kernels=(block.kernel,)
                    if isinstance(block.kernel, str)
                    else tuple(range(min(_MIN_KERNEL, block.kernel), block.kernel + 1, 2)),
                    squeeze=(False, True) if block.squeeze else (False,),
                )
            )
            before, inputs = stage, self.widths[stage]
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

    def has_block(self, choice: Choice, number: int) -> bool:
        """Whether the network of a choice has block `number`."""
        slot = self.slots[number]
        return slot.position <= choice.depth[slot.stage]

    def width(self, choice: Choice, stage: int | None) -> int:
        """Return the index of a stage's width; 0 for a width that is not searched."""
        return 0 if stage is None or isinstance(choice.width, UnsetType) else choice.width[stage]

    def picks(self, choice: Choice, number: int) -> SlotPicks:
        """Return the options of block `number`."""
        slot = self.slots[number]
        return (
            self.width(choice, slot.before),
            self.width(choice, slot.stage),
            choice.hidden[number],
            choice.kernel[number],
            choice.squeeze[number],
        )

    def arch(self, choice: Choice) -> MobileArch:
        """Return the network of a choice."""
        stem = self.stem_widths[self.width(choice, self.stem_stage)]
        return replace(
            self.whole,
            image_size=self.sides[choice.side[0]],
            stem=replace(self.whole.stem, channels=stem),
            blocks=tuple(
                slot.part(self.picks(choice, number))
                for number, slot in enumerate(self.slots)
                if self.has_block(choice, number)
            ),
        )

    def choice(self, arch: MobileArch) -> Choice:
        """Return the choice of `arch`; MobileNASError if it is not a subnetwork."""
        picks = {name: [n - 1 for n in self.options(name)] for name in self.decisions}
        picks["side"] = [n for n, side in enumerate(self.sides) if side == arch.image_size]
        picks["depth"], stage, position, before = [-1] * len(self.depths), -1, 0, -1
        starts = [number for number, slot in enumerate(self.slots) if slot.position == 0]
        for block in arch.blocks:
            begins = block.stride > 1 or block.out != before or stage < 0
            stage, position, before = stage + begins, 0 if begins else position + 1, block.out
            if stage == len(starts) or position == self.depths[stage]:
                break
            number = starts[stage] + position
            slot = self.slots[number]
            hidden = block.hidden if slot.expands else slot.block.hidden
            if hidden in slot.hidden and block.kernel in slot.kernels and block.out in slot.outputs:
                picks["hidden"][number] = slot.hidden.index(hidden)
                picks["kernel"][number] = slot.kernels.index(block.kernel)
                picks["squeeze"][number] = int(block.squeeze > 0) if slot.block.squeeze else 0
                picks["depth"][stage] = position
                if "width" in picks:
                    picks["width"][stage] = slot.outputs.index(block.out)
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
        if name == "width":
            return list(map(len, self.widths))
        fields = {"hidden": "hidden", "kernel": "kernels", "squeeze": "squeeze"}
        return [len(getattr(slot, fields[name])) for slot in self.slots]

    def is_legal(self, choice: Choice) -> bool:
        """Whether a choice has a legal option for every decision."""
        if (choice.width is UNSET) != (self.stage_shares is UNSET):
            return False
        for name in self.decisions:
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
            name = source.choice(self.decisions)
            row = list(changes.get(name, getattr(choice, name)))
            index = source.randrange(len(row))
            row[index] = getattr(fresh, name)[index]
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

    def _in_slot(self, choice: Choice, number: int) -> SlotPicks | None:
        return self.picks(choice, number) if self.has_block(choice, number) else None

    def _pick(self, pick: Callable[[int], int]) -> Choice:
        return choice_of({name: [pick(n) for n in self.options(name)] for name in self.decisions})


def choice_of(picks: Mapping[str, list[int]]) -> Choice:
    """Make a choice from one index per decision."""
    return Choice(**{name: tuple(row) for name, row in picks.items()})
