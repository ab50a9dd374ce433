"""Unknown channel counts and the equations between them: union-find with splitting.

A channel dimension of a tensor has a layout, a sequence of runs. A run has all channels of one
variable, each repeated `repeat` times. Two layouts that must be equal are traversed together: where
a run ends inside another, the other's variable is split in two, and runs of equal length are
unified. So `cat(a, b) + c` splits c, and flattening multiplies `repeat`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from mobilenas.core.settings import counted


@dataclass(frozen=True)
class Run:
    """All channels of a variable, each repeated `repeat` times."""

    variable: int
    repeat: int = 1
    aligned: bool = True


Layout = tuple[Run, ...]
"""Empty for a dimension whose size depends on no channel count: batch, height, a constant."""


class Unsupported(Exception):  # noqa: N818 - the operation is unsupported; rules name it
    """An operation's effect on channels cannot be expressed as equations between layouts."""


class Variables:
    """Current sizes of all variables, and the known equations."""

    def __init__(self) -> None:
        self.origins: list[str | None] = []
        self._sizes: list[int] = []
        self._bound: dict[int, Layout] = {}
        self._fixed: list[tuple[Layout, str]] = []
        self._multiples: list[tuple[Layout, int]] = []

    def new(self, size: int, origin: str | None = None) -> Layout:
        """Return the layout of a new variable; `origin`: the layer that makes the channels."""
        self._sizes.append(size)
        self.origins.append(origin)
        return (Run(len(self._sizes) - 1),)

    def size(self, variable: int) -> int:
        """Return the current size of a variable."""
        return self._sizes[variable]

    def entries(self, layout: Layout) -> int:
        """Return the current number of entries of a layout."""
        return sum(self._sizes[run.variable] * run.repeat for run in layout)

    def resolve(self, layout: Layout) -> Layout:
        """Return the layout in terms of free variables."""
        runs: list[Run] = []
        for run in layout:
            if run.variable not in self._bound:
                runs.append(run)
                continue
            bound = self._bound[run.variable] = self.resolve(self._bound[run.variable])
            runs += [
                Run(part.variable, part.repeat * run.repeat, part.aligned and run.aligned)
                for part in bound
            ]
        return tuple(runs)

    def form(self, layout: Layout) -> dict[int, Fraction]:
        """Return the number of entries as coefficients of the free variables."""
        form: dict[int, Fraction] = {}
        for run in self.resolve(layout):
            form[run.variable] = form.get(run.variable, Fraction(0)) + run.repeat
        return form

    def fix(self, layout: Layout, reason: str) -> None:
        """Fix all variables of a layout at their current sizes."""
        self._fixed.append((layout, reason))

    def divide(self, layout: Layout, divisor: int) -> None:
        """Require that the number of entries is a multiple of `divisor`."""
        if divisor > 1:
            self._multiples.append((layout, divisor))

    def tie(self, one: Layout, other: Layout) -> None:
        """Make two layouts equal, run by run."""
        one, other = self.resolve(one), self.resolve(other)
        if self.entries(one) != self.entries(other):
            raise Unsupported(
                f"{counted(self.entries(one), 'channel meets', 'channels meet')} "
                f"{self.entries(other)}"
            )
        while one:
            length = min(self.entries(one[:1]), self.entries(other[:1]))
            (first, one), (second, other) = self.cut(one, length), self.cut(other, length)
            first, second = self.resolve(first), self.resolve(second)
            if len(first) == len(second) == 1:
                self._equate(*first, *second)
            else:
                self.tie(first, second)  # a cut has also split a variable of the other
            one, other = self.resolve(one), self.resolve(other)

    def cut(self, layout: Layout, length: int) -> tuple[Layout, Layout]:
        """Return the first `length` entries and the rest, splitting a variable if necessary."""
        layout = self.resolve(layout)
        head = 0
        for place, run in enumerate(layout):
            inside = length - head
            if not inside:
                return layout[:place], layout[place:]
            head += self.entries((run,))
            if head > length:
                first, rest = self._split(run, inside)
                return (*layout[:place], first), (rest, *layout[place + 1 :])
        return layout, ()

    def pieces(self, layout: Layout, count: int) -> list[Layout]:
        """Cut a layout into pieces that are tied to be equal."""
        layout = self.resolve(layout)
        if count == 1:
            return [layout]
        length, remainder = divmod(self.entries(layout), count)
        if remainder:
            raise Unsupported(
                f"{counted(self.entries(layout), 'channel is', 'channels are')} cut into {count} "
                "pieces"
            )
        if len(layout) == 1 and layout[0].repeat % count == 0:
            # shuffled: each piece has entries of nearly every channel, at any size
            return [(replace(layout[0], repeat=layout[0].repeat // count, aligned=False),)] * count
        pieces = []
        for _ in range(count):
            piece, layout = self.cut(layout, length)
            pieces.append(piece)
        for piece in pieces[1:]:
            self.tie(pieces[0], piece)
        return [self.resolve(piece) for piece in pieces]

    def divided(self, layout: Layout, length: int) -> Layout:
        """Return the layout whose entries are `length` consecutive entries of this one."""
        layout = self.resolve(layout)
        while uneven := [run for run in layout if run.repeat % length]:
            run = uneven[0]
            need = length // math.gcd(length, run.repeat)
            size, remainder = divmod(self._sizes[run.variable], need)
            if remainder:
                raise Unsupported(
                    f"{counted(self._sizes[run.variable], 'channel is', 'channels are')} put in "
                    f"rows of {need}"
                )
            self._bind(run.variable, repeated(self.new(size), need))
            layout = self.resolve(layout)
        return tuple(replace(run, repeat=run.repeat // length) for run in layout)

    def reasons(self) -> dict[int, str]:
        """Return the first reason why each fixed variable is fixed."""
        reasons: dict[int, str] = {}
        for layout, reason in self._fixed:
            for run in self.resolve(layout):
                reasons.setdefault(run.variable, reason)
        for layout, divisor in self._multiples:
            needs = self._needs(layout, divisor)
            if any(self._sizes[variable] % need for variable, need in needs.items()):
                # only their sum is a multiple, so fix them instead of searching over such sums
                for variable in needs:
                    reasons.setdefault(variable, f"with others it makes a multiple of {divisor}")
        return reasons

    def divisors(self, fixed: Iterable[int]) -> dict[int, int]:
        """Return the divisors of the sizes of variables that are not `fixed`."""
        divisors: dict[int, int] = {}
        for layout, divisor in self._multiples:
            for variable, need in self._needs(layout, divisor).items():
                divisors[variable] = math.lcm(divisors.get(variable, 1), need)
        return {variable: need for variable, need in divisors.items() if variable not in fixed}

    def _needs(self, layout: Layout, divisor: int) -> Mapping[int, int]:
        """Return each variable's divisor that makes the entries a multiple of `divisor`."""
        return {
            variable: divisor // math.gcd(divisor, int(count))
            for variable, count in self.form(layout).items()
        }

    def _split(self, run: Run, length: int) -> tuple[Run, Run]:
        if length % run.repeat:
            raise Unsupported("channels are cut between the values of one channel")
        size, first = self._sizes[run.variable], length // run.repeat
        head, rest = self.new(first), self.new(size - first)
        self._bind(run.variable, head + rest)
        return replace(run, variable=head[0].variable), replace(run, variable=rest[0].variable)

    def _equate(self, one: Run, other: Run) -> None:
        """Unify the variables of two runs of equal length."""
        if one.variable == other.variable:
            return
        old, young = sorted((one, other), key=lambda run: run.variable)
        if old.repeat % young.repeat == 0:
            self._bind(young.variable, (Run(old.variable, old.repeat // young.repeat),))
        elif young.repeat % old.repeat == 0:
            self._bind(old.variable, (Run(young.variable, young.repeat // old.repeat),))
        else:
            common = math.gcd(old.repeat, young.repeat)
            base = self.new(self._sizes[old.variable] * common // young.repeat)
            self._bind(old.variable, repeated(base, young.repeat // common))
            self._bind(young.variable, repeated(base, old.repeat // common))

    def _bind(self, variable: int, layout: Layout) -> None:
        self._bound[variable] = layout


def repeated(layout: Layout, times: int) -> Layout:
    """Repeat each entry `times` times."""
    return tuple(replace(run, repeat=run.repeat * times) for run in layout)
