"""Converts unit times of one device to another, with a weight for each kind of operation.

    time = scale * time on the other device + sum over the kinds of weight * amount

Weights are not negative. They are fitted to the latencies of a few whole networks, so they are
shrunk towards 0 (a line for all units) by a strength chosen by cross-validation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mobilenas.latency.calibration import fit
from mobilenas.latency.measured import Measured
from mobilenas.latency.units import Unit
from mobilenas.nn.costs import LayerCost
from mobilenas.spaces.mobile.arch import Block, Head, Stem
from mobilenas.spaces.mobile.costs import block_costs, head_costs, stem_cost

KINDS = (
    "layers",
    "dense_flops",
    "depthwise_3x3_flops",
    "depthwise_5x5_flops",
    "depthwise_7x7_flops",
    "squeeze_excites",
    "params",
)
"""Amounts that are counted for a unit. Dense: full and 1x1 convolutions, and linear layers."""
MIN_NETWORKS = 8
"""With fewer, a line is fitted: on published latencies, kinds too often ranked networks worse."""

_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
_LINE = float("inf")
_FOLDS = 10
_PRIOR = 0.1  # prior precision of each weight in the D-optimal design
_SMALLEST_SCALE = 1e-6  # so that every unit takes some time

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KindFit:
    """latency_ms = weights @ (sum of unit times, amounts of `KINDS`) + offset_ms."""

    weights: tuple[float, ...]
    """Scale of the unit times, then ms per amount of each kind."""
    offset_ms: float
    """Constant added per network."""
    strength: float
    """Strength of the shrinkage of the kinds' weights; infinite: to 0, which is a line."""

    @property
    def is_line(self) -> bool:
        """Whether all weights of kinds are 0."""
        return self.strength == _LINE

    def predict(self, columns: _Numbers) -> _Numbers:
        """Return the predicted latency of each row."""
        return np.asarray(columns @ np.array(self.weights) + self.offset_ms)

    def corrected(self, unit: Unit, time: Measured) -> Measured:
        """Return the time of a unit on the other device."""
        scale, *others = self.weights
        added_ms = float(np.dot(others, amounts(unit)))
        return time.scaled(max(scale, _SMALLEST_SCALE), added_ms)


def amounts(unit: Unit) -> tuple[float, ...]:
    """Return a unit's amounts, in the order of `KINDS`."""
    layers = _layers(unit)
    flops = {3: 0, 5: 0, 7: 0}
    kernels = {"block.start": unit.start_kernel, "block.depthwise": unit.kernel}
    for layer in layers:
        if layer.name in kernels:
            flops[max(3, kernels[layer.name])] += layer.flops
    dense = sum(layer.flops for layer in layers) - sum(flops.values())
    params = sum(layer.params for layer in layers)
    return (len(layers), dense, *flops.values(), float(unit.squeeze > 0), params)


def fit_kinds(columns: _Numbers, times: _Numbers) -> KindFit:
    """Fit weights to times of networks; rows of `columns`: sum of unit times, then of amounts.

    Chooses the largest strength (up to the line) whose cross-validated error is within one standard
    error of the smallest ("1-SE rule", Breiman et al. 1984).
    """
    options = (*_STRENGTHS, _LINE)
    errors = np.empty((len(options), len(times)))
    for fold in np.array_split(np.arange(len(times)), min(len(times), _FOLDS)):
        rest = np.setdiff1d(np.arange(len(times)), fold)
        for row, strength in zip(errors, options, strict=True):
            found = _solve(columns[rest], times[rest], strength)
            row[fold] = (found.predict(columns[fold]) / times[fold] - 1) ** 2
    worse = errors - errors[errors.mean(axis=1).argmin()]
    near = worse.mean(axis=1) <= worse.std(axis=1, ddof=1) / np.sqrt(len(times))
    return _solve(columns, times, float(np.array(options)[near].max()))


def leave_one_out(columns: _Numbers, times: _Numbers) -> list[float]:
    """Predict each network from a fit to all others, including the choice of strength."""
    everyone = range(len(times))
    predicted = []
    for one in everyone:
        rest = [other for other in everyone if other != one]
        predicted.append(float(fit_kinds(columns[rest], times[rest]).predict(columns[one])))
    return predicted


def most_informative(columns: _Numbers, number: int) -> list[int]:
    """Return the rows that best determine the weights of all columns, most informative first.

    Greedy D-optimal design: each is the row whose latency is most uncertain, given those before.
    """
    rows = (columns - columns.mean(axis=0)) / _spread(columns)
    rows = np.column_stack([np.ones(len(rows)), rows])
    covariance = np.eye(rows.shape[1]) / _PRIOR
    chosen: list[int] = []
    while len(chosen) < min(number, len(rows)):
        variances = np.einsum("ij,jk,ik->i", rows, covariance, rows)
        variances[chosen] = -1
        chosen.append(int(variances.argmax()))
        gain = covariance @ rows[chosen[-1]]
        covariance -= np.outer(gain, gain) / (1 + rows[chosen[-1]] @ gain)
    return chosen


def _solve(columns: _Numbers, times: _Numbers, strength: float) -> KindFit:
    if strength == _LINE:
        scale, offset_ms = fit(columns[:, 0].tolist(), times.tolist())
        return KindFit(weights=(scale, *[0.0] * len(KINDS)), offset_ms=offset_ms, strength=strength)
    units = _spread(columns) / times.mean()  # a column that is equal in all networks gets no weight
    ones = np.ones((len(times), 1))
    relative = np.hstack([columns / units, ones, -ones]) / times[:, None]
    shrinkage = np.zeros((len(KINDS), relative.shape[1]))
    np.fill_diagonal(shrinkage[:, 1:], np.sqrt(strength))
    target = np.append(ones, np.zeros(len(KINDS)))
    solution, _ = nnls(np.vstack([relative, shrinkage]), target, maxiter=1000)
    *weights, above, below = solution.tolist()
    return KindFit(
        weights=tuple((weights / units).tolist()), offset_ms=above - below, strength=strength
    )


def _spread(columns: _Numbers) -> _Numbers:
    """Return the standard deviation of each column; infinite if it is constant."""
    spread = columns.std(axis=0)
    return np.where(spread > 1e-9 * columns.mean(axis=0), spread, np.inf)


def _layers(unit: Unit) -> list[LayerCost]:
    into, out, activation = unit.in_channels, unit.out_channels, unit.activation
    if unit.kind == "stem":
        stem = Stem(channels=out, stride=unit.stride, activation=activation)
        return [stem_cost(stem, into, unit.side)]
    if unit.kind == "block":
        block = Block(
            kernel=unit.kernel,
            hidden=unit.hidden,
            out=out,
            stride=unit.stride,
            squeeze=unit.squeeze,
            activation=activation,
            start_kernel=unit.start_kernel,
        )
        return block_costs(block, into, unit.side)
    channels = out if unit.kind == "features" else 0
    head = Head(channels=channels, hidden=0, activation=activation, dropout=0.0)
    return head_costs(head, into, unit.side, out)[:1]
