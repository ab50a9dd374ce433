"""QC, a metric of how well a layer uses its channels, from its weights alone.

The weight is unfolded along its output and its input channels. Empirical variational Bayes matrix
factorization splits each unfolding into a low-rank part and noise, and QC combines that part's rank
and condition number (CONetV2, Wang et al. 2021, arXiv 2110.06830).

The factorization's global optimum is known in closed form: Nakajima, Sugiyama, Babacan and Tomioka,
JMLR 14, 2013. The form used here, with tau, and the bounds of the noise variance are from Nakajima,
Tomioka, Sugiyama and Babacan, JMLR 16, 2015.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor, nn

from mobilenas.core.errors import DivergedError, MobileNASError
from mobilenas.core.files import State

Array = NDArray[np.float64]
Member = tuple[str, str]
"""A layer's name, and which of its channels belong to a group: "in" or "out"."""

_NOISE_POINTS = 256
# weights are float32: singular values below this share of the largest are rounding errors
_RESOLUTION = float(np.finfo(np.float32).eps)
# log(z + 1) / z is 1/2 here; tau is between alpha times this and this
_HALF = 2.5128624172523393


@dataclass(frozen=True, kw_only=True)
class LayerQuality:
    """QC of a layer along both channel dimensions, with rank and condition number."""

    in_qc: float
    """QC of the unfolding [input channels, output channels x kernel], 0 to pi / 2."""
    out_qc: float
    """QC of the unfolding [output channels, input channels x kernel], 0 to pi / 2."""
    in_rank: int
    """Rank of the low-rank part of the first unfolding."""
    out_rank: int
    """Rank of the low-rank part of the second unfolding."""
    in_condition: float
    """Largest over smallest singular value of the low-rank part; 0 if the rank is 0."""
    out_condition: float
    """Likewise for the second unfolding."""

    @classmethod
    def constant(cls) -> "LayerQuality":
        """Return a constant, for the control that distinguishes no layers."""
        one = {"in_qc": 1.0, "out_qc": 1.0, "in_condition": 1.0, "out_condition": 1.0}
        return cls(**one, in_rank=1, out_rank=1)


def qualities(model: nn.Module) -> dict[str, LayerQuality]:
    """Return the quality of every 2-d convolution and linear layer of a model, by name."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            try:
                found[name] = quality(layer.weight, groups)
            except DivergedError as error:
                raise DivergedError(f"layer {name!r}: {error}") from None
    return found


def quality(weight: Tensor, groups: int = 1) -> LayerQuality:
    """Return the quality of a weight [Cout, Cin / groups] or [Cout, Cin / groups, k, k].

    QC = atan2(rank / dim, 1 - 1 / condition) (CONetV2). It is 0 if nothing is above the noise. By
    this published definition it is pi / 2 at rank 1, whose condition is 1, for any dim.

    dim is the number of channels. In a grouped convolution the rows of all groups are stacked, and
    a row has (Cin / groups) k k values (output side) or (Cout / groups) k k (input side). That
    limits the rank, so dim is at most this limit. A depthwise convolution has the same unfolding
    [C, k k], its filters, on both sides: separate groups would have one row each, which cannot be
    told from noise.
    """
    outgoing, incoming = unfold(weight, groups)
    if not np.isfinite(outgoing).all():
        raise DivergedError("its weight holds values that are not finite numbers")
    out_signal = low_rank_values(outgoing)
    # without a kernel, one is the transpose of the other
    alike = groups == 1 and weight.shape[2:].numel() == 1
    in_signal = out_signal if alike else low_rank_values(incoming)
    in_qc, in_condition = _qc(in_signal, incoming.shape, groups)
    out_qc, out_condition = _qc(out_signal, outgoing.shape, groups)
    return LayerQuality(
        in_qc=in_qc,
        out_qc=out_qc,
        in_rank=len(in_signal),
        out_rank=len(out_signal),
        in_condition=in_condition,
        out_condition=out_condition,
    )


def unfold(weight: Tensor, groups: int = 1) -> tuple[Array, Array]:
    """Return [Cout, Cin / groups * k * k] and [Cin, Cout / groups * k * k] in float64."""
    values = weight.detach().cpu().double().numpy()
    out_channels, group_in = values.shape[:2]
    by_group = values.reshape(groups, out_channels // groups, group_in, -1)
    outgoing = values.reshape(out_channels, -1)
    return outgoing, by_group.swapaxes(1, 2).reshape(groups * group_in, -1)


def low_rank_values(matrix: Array) -> Array:
    """Return the low-rank part's singular values, largest first; none for zeros or one row.

    Singular values above the noise are shrunk by the noise's contribution.
    """
    rows, columns = sorted(matrix.shape)  # L <= M
    squares = _squared_singular_values(matrix)
    if squares[0] == 0.0:
        return squares[:0]
    x = squares / (columns * noise_variance(squares, columns))
    alpha = rows / columns
    above = x > _threshold(alpha)
    x, gap = x[above], x[above] - (1 + alpha)
    shrink = 0.5 * (gap + np.sqrt(gap**2 - 4 * alpha)) / x
    return np.asarray(np.sqrt(squares[above]) * shrink)


def _squared_singular_values(matrix: Array) -> Array:
    """Return squared singular values, largest first, from the smaller Gram matrix.

    Ten times faster than an SVD, with half the digits: the relative error is 1e-16 over the value's
    squared share of the largest.
    """
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return np.asarray(np.linalg.eigvalsh(gram)[::-1].clip(min=0.0))


def noise_variance(squares: Array, columns: int) -> float:
    """Return the noise variance of minimal free energy, for squared singular values [L].

    The minimum is within known bounds (JMLR 16, 2015), but there may be other local minima: a grid
    over the logarithm finds all, and a bounded search refines each.
    """
    rows = len(squares)
    max_rank = math.ceil(rows / (1 + rows / columns)) - 1  # the rank cannot be larger
    high = squares.sum() / (rows * columns)
    low = max(
        squares[max_rank] / (columns * _threshold(rows / columns)),
        squares[max_rank:].sum() / (columns * (rows - max_rank)),
        _RESOLUTION**2 * squares[0] / columns,
    )
    if low >= high:
        return float(high)
    grid = np.linspace(math.log(low), math.log(high), _NOISE_POINTS)
    energies = np.pad(free_energy(grid, squares, columns), 1, constant_values=np.inf)
    valleys = np.flatnonzero((energies[1:-1] <= energies[:-2]) & (energies[1:-1] <= energies[2:]))
    found = [
        minimize_scalar(
            lambda log_noise: free_energy(np.array([log_noise]), squares, columns)[0],
            bounds=(grid[max(valley - 1, 0)], grid[min(valley + 1, _NOISE_POINTS - 1)]),
            method="bounded",
        )
        for valley in valleys.tolist()
    ]
    return math.exp(min(found, key=lambda result: float(result.fun)).x)


def free_energy(log_noise: Array, squares: Array, columns: int) -> Array:
    """Return the free energy at log noise variances [P], for squared singular values [L].

    It is 2 F / M without constants: sum over h of x_h + log s2, plus log(tau + 1) + alpha log(tau /
    alpha + 1) - tau if x_h is above the threshold, with x_h = square_h / (M s2).
    """
    alpha = len(squares) / columns
    x = squares / (columns * np.exp(log_noise)[:, None])  # [P, L]
    energy = x.sum(1) + len(squares) * log_noise
    above = x > _threshold(alpha)
    gap = x[above] - (1 + alpha)
    tau = 0.5 * (gap + np.sqrt(gap**2 - 4 * alpha))
    gain = np.zeros_like(x)
    gain[above] = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return np.asarray(energy + gain.sum(1))


@lru_cache(maxsize=4096)
def _threshold(alpha: float) -> float:
    """Return the threshold of x above which a component is kept: (1 + tau)(1 + alpha / tau).

    tau solves phi(tau) + phi(tau / alpha) = 0, with phi(z) = log(z + 1) / z - 1 / 2.
    """
    if alpha == 1.0:
        tau = _HALF
    else:
        tau = brentq(lambda z: _phi(z) + _phi(z / alpha), alpha * _HALF, _HALF)
    return float((1 + tau) * (1 + alpha / tau))


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _qc(signal: Array, shape: tuple[int, ...], groups: int) -> tuple[float, float]:
    """Return QC and the condition number."""
    if not len(signal):
        return 0.0, 0.0
    dim = shape[0] if groups == 1 else min(shape)
    condition = float(signal[0] / signal[-1])
    return math.atan2(len(signal) / dim, 1 - 1 / condition), condition


class Momentum:
    """M_t = gamma M_(t-1) + QC_t for every layer and side (CONetV2)."""

    def __init__(self, gamma: float = 0.8) -> None:
        if not 0 <= gamma < 1:
            raise MobileNASError(f"gamma is {gamma!r}; it must be at least 0 and under 1")
        self.gamma = gamma
        self.now: dict[str, dict[str, float]] = {}
        self.before: dict[str, dict[str, float]] = {}

    def update(self, found: Mapping[str, LayerQuality]) -> None:
        """Add the qualities of a trial. M is 0 before the first one."""
        self.before, self.now = self.now, {}
        for name, layer in found.items():
            past = self.before.get(name, {"in": 0.0, "out": 0.0})
            sides = {"in": layer.in_qc, "out": layer.out_qc}
            self.now[name] = {side: self.gamma * past[side] + qc for side, qc in sides.items()}

    def change(self, members: Sequence[Member]) -> float:
        """Return D, the mean of M_t minus the mean of M_(t-1) over a group's members.

        It is 0 until two trials were added.
        """
        if not self.before:
            return 0.0
        return fmean(self.now[name][side] - self.before[name][side] for name, side in members)

    def state_dict(self) -> State:
        """Return the state for resuming, as JSON types."""
        return {"now": self.now, "before": self.before}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.now, self.before = dict(state["now"]), dict(state["before"])
