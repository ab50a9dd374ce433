"""Which channels are kept when a group shrinks, and how the dropped ones are absorbed.

With `svd`, a group keeps the channels that best span its activations, and the layers that read it
reconstruct dropped channels from kept ones. No data are needed: mean and variance of activations
come from batch norms, and correlations from the weights before them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack, qr, solve
from scipy.special import eval_hermitenorm, ndtr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mobilenas.channel_graph import Graph, Group, Member

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_TERMS = 6  # of the Hermite series; the remainder counts as independent noise of each channel
_RIDGE = 1e-4  # relative to the mean variance
_LARGEST_CUT = 1024
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and covariance of a group's activations."""

    mean: Array
    """[C]."""
    covariance: Array
    """[C, C]."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Dropped channels as a function of kept ones: gone = weights @ kept + constant."""

    gone: Indices
    """[D], indices of dropped channels; kept are all others, in order."""
    weights: Array
    """[D, K]."""
    constant: Array
    """[D]."""
    mean: Array
    """[C], mean activations, from which the constant was computed."""


def norms_behind(model: nn.Module, graph: Graph) -> dict[str, _BatchNorm]:
    """Return by layer the batch norm that reads its outputs and nothing else."""
    modules = dict(model.named_modules())
    norms = {}
    for layer, norm in pairwise(graph.dimensions):
        follower = modules[norm.module]
        if (
            (layer.kind, norm.kind) == ("out", "norm")
            and layer.parts == norm.parts
            and isinstance(follower, _BatchNorm)
            and follower.affine
        ):
            norms[layer.module] = follower
    return norms


class Shrinking:
    """Chooses the channels to keep in the groups of a model."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self._model, self._graph = model, graph
        self._norms = norms_behind(model, graph)

    def by_magnitude(self, group: Group, size: int) -> Indices:
        """Return [size], the channels whose weights, times the norm's scale, are largest (L2)."""
        squares = np.diag(self._products(group))
        return _in_blocks(group, size, lambda own, count: np.argsort(-squares[own])[:count])

    def by_span(self, group: Group, size: int) -> tuple[Indices, Reconstruction | None]:
        """Return [size], the channels that best span the group's activations, and reconstruction.

        Channels are weighted by the weights of the layers that read them. If batch norms do not
        determine the activations, weights are spanned instead, and nothing is absorbed.
        """
        moments = self._moments(group)
        spanned = self._products(group) if moments is None else moments.covariance
        use = self._use(group)
        spanned = spanned * use[:, None] * use
        kept = _in_blocks(group, size, lambda own, count: spanning(spanned[own][:, own], count))
        return kept, None if moments is None else _reconstruct(moments, kept)

    def _producers(self, group: Group) -> list[Member]:
        """Return the layers that make the channels from others, without squeeze-excite's gates."""
        depthwise = {member.module for member in _depthwise(group)}
        made = [m for m in group.members if m.kind == "out" and m.module not in depthwise]
        normed = [member for member in made if member.module in self._norms]
        return normed or made

    def _rows(self, member: Member) -> Array:
        """Return [C, values], the weights that produce each channel."""
        weight = self._model.get_parameter(f"{member.module}.weight")
        rows = _numbers(weight[member.offset : member.offset + member.size])
        return rows.reshape(len(rows), -1)

    def _products(self, group: Group) -> Array:
        """Return [C, C], scalar products of the weights, scaled by the norms."""
        total = np.zeros((group.size, group.size))
        for member in self._producers(group):
            rows = self._rows(member)
            if member.module in self._norms:
                rows = rows * self._scale(member)[:, None]
            total += self._by_block(member, rows.reshape(group.size, -1))
        return total

    def _scale(self, member: Member) -> Array:
        weight = _numbers(self._norms[member.module].weight)
        return weight[member.offset : member.offset + member.size]

    def _moments(self, group: Group) -> Moments | None:
        """Return the moments of a group's activations, or None if norms do not determine them.

        Outputs of a norm are assumed normal, with its bias as mean and its weight as standard
        deviation, correlated like the rows of the weights before it, and then rectified.
        """
        makers, depthwise = self._producers(group), _depthwise(group)
        norms = [self._norms.get(member.module) for member in (*makers, *depthwise)]
        seen = {self._norms[m.module] for m in (*makers, *depthwise) if m.module in self._norms}
        readers = {self._model.get_submodule(m.module) for m in group.members if m.kind == "norm"}
        plain = all(m.repeat == 1 for m in group.members if m.kind in ("out", "norm"))
        if None in norms or readers != seen or not plain or (depthwise and len(makers) > 1):
            return None
        mean, covariance = np.zeros(group.size), np.zeros((group.size, group.size))
        for member in makers:
            mean = mean + self._shift(member)
            covariance = covariance + self._correlated(member)
        moments = rectified(mean, covariance)
        for member in depthwise:
            like = self._correlated(member)
            moments = rectified(self._shift(member), _correlation(moments.covariance) * like)
        return moments

    def _shift(self, member: Member) -> Array:
        bias = _numbers(self._norms[member.module].bias)
        return bias[member.offset : member.offset + member.size]

    def _correlated(self, member: Member) -> Array:
        """Return [C, C], covariances of a norm's outputs, assuming white inputs of the layer."""
        rows = self._rows(member)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
        return self._by_block(member, rows * self._scale(member)[:, None])

    def _by_block(self, member: Member, rows: Array) -> Array:
        """Return products of rows; 0 between groups of a convolution, whose inputs differ."""
        blocks = self._graph.dimension(member.module, "in").blocks
        block = np.arange(len(rows)) * blocks // len(rows)
        single = rows.astype(np.float32)  # as the weights, in half the time
        return np.asarray((single @ single.T) * (block[:, None] == block), np.float64)

    def _use(self, group: Group) -> Array:
        """Return [C], the relative size of the weights that read each channel."""
        use = np.zeros(group.size)
        for member in group.members:
            if member.kind == "in" and member.dimension.axes:
                weight = _numbers(self._model.get_parameter(f"{member.module}.weight"))
                blocks = member.dimension.blocks
                squares = np.square(
                    weight.reshape(blocks, len(weight) // blocks, weight.shape[1], -1)
                )
                sums = squares.sum((1, 3)).reshape(-1)[member.offset : member.offset + member.size]
                use += sums.reshape(group.size, -1).sum(1) / max(sums.sum(), _TINY)
        return np.sqrt(use)


def rectified(mean: Array, covariance: Array) -> Moments:
    """Return the moments of max(x, 0) for normal x with mean [C] and covariance [C, C].

    The covariance is a power series in the correlation: the Hermite expansion of the ReLU.
    """
    deviation = np.sqrt(np.maximum(np.diag(covariance), _TINY))
    t = mean / deviation
    density = np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
    below = ndtr(t)
    first = t * below + density
    correlation = _correlation(covariance)
    power, result = np.ones_like(covariance), np.zeros_like(covariance)
    for term in range(1, _TERMS + 1):
        power = power * correlation
        share = below if term == 1 else density * eval_hermitenorm(term - 2, -t)
        result += power * np.outer(share, share) / math.factorial(term)
    np.fill_diagonal(result, (t**2 + 1) * below + t * density - first**2)
    return Moments(mean=deviation * first, covariance=result * np.outer(deviation, deviation))


def spanning(products: Array, size: int) -> Indices:
    """Return the rows that best span a matrix, given the products [C, C] of its rows.

    The matrix is truncated to its `size` largest singular values. QR with pivoting then repeatedly
    takes the row farthest from the span of those before: an interpolative decomposition. More than
    1024 rows are not truncated, which would take minutes; the pivots are those of a Cholesky
    decomposition.
    """
    if len(products) > _LARGEST_CUT:
        _, order, _, _ = lapack.dpstrf(products)
        return np.asarray(order[:size] - 1, dtype=np.int64)  # LAPACK counts from 1
    squares, left = np.linalg.eigh(products.astype(np.float32))
    leading = left[:, -size:] * np.sqrt(squares[-size:].clip(min=0.0))
    _, order = qr(leading.T, mode="r", pivoting=True)
    return np.asarray(order[:size], dtype=np.int64)


def _reconstruct(moments: Moments, kept: Indices) -> Reconstruction:
    """Regress the dropped channels on the kept ones."""
    gone = np.setdiff1d(np.arange(len(moments.mean)), kept)
    own = moments.covariance[kept][:, kept]
    ridge = max(_RIDGE * np.trace(own) / len(kept), _TINY) * np.eye(len(kept))
    weights = solve(own + ridge, moments.covariance[kept][:, gone], assume_a="pos").T
    constant = moments.mean[gone] - weights @ moments.mean[kept]
    return Reconstruction(gone=gone, weights=weights, constant=constant, mean=moments.mean)


def _in_blocks(group: Group, size: int, best: Callable[[Indices, int], Indices]) -> Indices:
    """Select channels in each block of a grouped convolution, as `leading` does; in order."""
    old, new = group.size // group.divisor, size // group.divisor
    blocks = np.arange(group.size).reshape(group.divisor, old)
    return np.concatenate([own[np.sort(best(own, new))] for own in blocks])


def _depthwise(group: Group) -> list[Member]:
    """Return the outputs of depthwise convolutions over a group."""
    names = {m.module for m in group.members if m.kind == "in" and not m.dimension.axes}
    return [m for m in group.members if m.kind == "out" and m.module in names]


def _correlation(covariance: Array) -> Array:
    deviation = np.sqrt(np.maximum(np.diag(covariance), _TINY))
    return np.asarray(covariance / np.outer(deviation, deviation))


def _numbers(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())
