"""The prior: predicts the accuracy of untrained networks from networks trained before.

A Gaussian process (Rasmussen and Williams 2006) over features of a network: depth, activations,
where its FLOPs are spent. `bench/prior.py` fits it to validation top-1 of networks in fifteen
groups, each of the same images, image size and budget, minus the median of the group. So it can
only rank networks of about equal FLOPs. What it knows of one image size, budget and number of
training images has more effect on similar ones than on distant ones.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from mobilenas.core.files import parse_json
from mobilenas.core.settings import from_plain
from mobilenas.cost.networks import costs
from mobilenas.nn.operations import operation_of
from mobilenas.spaces.mobile.arch import MobileArch

FILE = "prior.json"
FLOPS = 1
"""Index of FLOPs in a `place`."""
Rows = NDArray[np.float64]


def features(arch: MobileArch) -> dict[str, float]:
    """Return the features of an arch by name."""
    exact = costs(arch)
    side = -(-arch.image_size // arch.stem.stride)
    stem = side**2 * arch.stem.channels * arch.in_channels * 9
    inputs = [arch.stem.channels, *(block.out for block in arch.blocks[:-1])]
    activations, by_side = side**2 * arch.stem.channels, dict[int, int]()
    kept, ends = 0, []
    for width, block in zip(inputs, arch.blocks, strict=True):
        after = -(-side // block.stride)
        ends.append(after)
        expansion = width * block.hidden * side**2 if block.hidden != width else 0
        expansion += width * block.start_kernel**2 * side**2
        rest = block.hidden * (operation_of(block.kernel).flops + block.out) * after**2
        by_side[after] = by_side.get(after, 0) + expansion + rest
        activations += block.hidden * (side**2 + after**2)
        kept += block.stride == 1 and block.out == width
        side = after
    head = side**2 * arch.blocks[-1].out * arch.head.channels
    total = stem + head + sum(by_side.values())
    halves = {after: math.log2(arch.image_size / after) for after in by_side}
    quarter = sum(flops for after, flops in by_side.items() if round(halves[after]) == 2)
    larger = sum(flops for after, flops in by_side.items() if round(halves[after]) < 2)
    outs = [block.out for block in arch.blocks]
    expansions = [math.log2(b.hidden / width) for width, b in zip(inputs, arch.blocks, strict=True)]
    kernels = [operation_of(block.kernel).flops ** 0.5 for block in arch.blocks]
    strided = [e for e, block in zip(expansions, arch.blocks, strict=True) if block.stride > 1]
    return {
        "blocks": math.log(len(arch.blocks)),
        "shortcuts": kept / len(arch.blocks),
        "activations": math.log(activations / exact.flops),
        "squeeze": statistics.mean(bool(block.squeeze) for block in arch.blocks),
        "expansion": statistics.mean(expansions),
        "strided_expansion": statistics.mean(strided or [0.0]),
        "start": statistics.mean(bool(block.start_kernel) for block in arch.blocks),
        "kernel": statistics.mean(kernels),
        "early_kernel": statistics.mean(
            k for k, end in zip(kernels, ends, strict=True) if end == max(ends)
        ),
        "late_kernel": statistics.mean(
            k for k, end in zip(kernels, ends, strict=True) if end == min(ends)
        ),
        "width": statistics.mean(math.log2(out) for out in outs),
        "min_hidden": math.log2(min(block.hidden for block in arch.blocks)),
        "last_hidden": math.log2(arch.blocks[-1].hidden),
        "last_out": math.log2(arch.blocks[-1].out),
        "halvings": statistics.mean(math.log2(arch.image_size / end) for end in ends),
        "quarter_share": quarter / total,
        "larger_share": larger / total,
        "narrowing": sum(max(0.0, math.log2(a / b)) for a, b in pairwise(outs)),
        "stem_share": stem / total,
        "head_share": head / total,
        "relu": float(arch.stem.activation == "relu"),
        "params": math.log(exact.params / exact.flops),
    }


def place(arch: MobileArch, images: int) -> tuple[float, float, float]:
    """Return log2 of image size, FLOPs per pixel, and number of training images."""
    pixels = arch.image_size**2
    return math.log2(arch.image_size), math.log2(costs(arch).flops / pixels), math.log2(images)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A Gaussian process over scaled features and the place of each network."""

    length: float
    """Length scale of the scaled features, divided by the square root of their number."""
    linear: float
    """Weight of the linear kernel beside the squared exponential one."""
    reach: tuple[float, float, float]
    """Length scales of a place: in doublings of image size, FLOPs per pixel, and images."""
    shared: float
    """Share of the covariance that does not depend on the places."""
    noise: float
    """Variance that features do not explain, as a share of that of top-1."""
    per_doubling: float
    """Points of top-1 per doubling of FLOPs, at equal features."""
    scale: tuple[float, ...]
    """Divisor of each feature, in the order of `features`."""
    points: tuple[tuple[float, ...], ...]
    """Scaled features of the trained networks."""
    places: tuple[tuple[float, float, float], ...]
    """The `place` of each trained network."""
    top1: tuple[float, ...]
    """Of each trained network: points of top-1 above its group's median, corrected for FLOPs."""

    def predict(self, rows: Rows, places: Rows) -> tuple[Rows, Rows]:
        """Return expected points of top-1 above the mean, and standard deviations: [N] each.

        The mean is that of networks of the same group and equal FLOPs. rows: [N, features], minus
        the group's mean; places: [N, 3].
        """
        scaled, (factor, weights) = rows / np.array(self.scale), self._solved
        known = np.array(self.points), np.array(self.places)
        across = self._kernel((scaled, places), known)  # [N, networks]
        explained = (across * cho_solve(factor, across.T).T).sum(1)
        own = 1 + self.linear * (scaled**2).mean(1)
        return across @ weights, np.std(self.top1) * np.sqrt(own - explained)

    @cached_property
    def _solved(self) -> tuple[tuple[Rows, bool], Rows]:
        known = np.array(self.points), np.array(self.places)
        factor = cho_factor(self._kernel(known, known) + self.noise * np.eye(len(self.points)))
        return factor, cho_solve(factor, np.array(self.top1))

    def _kernel(self, a: tuple[Rows, Rows], b: tuple[Rows, Rows]) -> Rows:
        count = a[0].shape[1]
        near = _squared_exponential(a[0], b[0], self.length * math.sqrt(count))
        covariances: Rows = near + self.linear * a[0] @ b[0].T / count
        return covariances * (
            self.shared + (1 - self.shared) * _squared_exponential(a[1], b[1], self.reach)
        )


def _squared_exponential(a: Rows, b: Rows, scale: float | tuple[float, ...]) -> Rows:
    """a: [N, D], b: [M, D] -> squared exponential kernel [N, M]."""
    kernel: Rows = np.exp(-((((a[:, None] - b[None]) / np.array(scale)) ** 2).sum(-1)) / 2)
    return kernel


@cache
def process() -> Process:
    """Return the process that comes with the package."""
    text = resources.files("mobilenas.search").joinpath(FILE).read_bytes()
    found: Process = from_plain(Process, parse_json(text, FILE), FILE)
    return found


class Prior:
    """Ranks networks of about equal FLOPs, for a number of training images.

    `usual` are random networks of the same space and budgets, which scores are relative to.
    """

    def __init__(self, usual: Sequence[MobileArch], images: int) -> None:
        self._images = images
        rows, places = features_and_places(usual, images)
        self._mean, self._flops = rows.mean(0), places[:, FLOPS].mean()

    def scores(self, archs: Sequence[MobileArch]) -> list[float]:
        """Return the points of top-1 by which each exceeds the usual ones with probability 5/6.

        These are expectations minus one standard deviation. Networks unlike all trained ones have
        a large deviation, and so a low score.
        """
        rows, places = features_and_places(archs, self._images)
        expected, deviation = process().predict(rows - self._mean, places)
        flops = process().per_doubling * (places[:, FLOPS] - self._flops)
        found: list[float] = (expected + flops - deviation).tolist()
        return found


def features_and_places(archs: Sequence[MobileArch], images: int) -> tuple[Rows, Rows]:
    """Return the features [N, features] and places [N, 3] of archs."""
    return (
        np.array([list(features(arch).values()) for arch in archs]),
        np.array([place(arch, images) for arch in archs]),
    )
