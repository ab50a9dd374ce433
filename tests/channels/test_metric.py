import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilenas.channels.metric import (
    Array,
    LayerQuality,
    Momentum,
    free_energy,
    low_rank_values,
    noise_variance,
    qualities,
    quality,
    unfold,
)
from mobilenas.core.errors import DivergedError, MobileNASError


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def orthonormal(rows: int, columns: int, seed: int) -> Array:
    return np.asarray(np.linalg.qr(gaussian(rows, columns, seed=seed))[0])


def planted(rows: int, columns: int, signal: list[float], noise: float, seed: int = 0) -> Array:
    """A matrix with these singular values, plus Gaussian noise."""
    rank = len(signal)
    left, right = orthonormal(rows, rank, seed + 1), orthonormal(columns, rank, seed + 2)
    return left * signal @ right.T + noise * gaussian(rows, columns, seed=seed)


def conv_weight(matrix: Array, *shape: int) -> Tensor:
    return torch.from_numpy(matrix.reshape(shape)).float()


# the closed form against the model it is the solution of


def brute_force(gamma: Array, rows: int, columns: int, noise: Array) -> tuple[Array, Array]:
    """Variational Bayes of every singular component by its own update rules, many of them.

    For V = B A' + noise with priors a ~ N(0, c_a), b ~ N(0, c_b) a component's share of 2 F is
    M log(c_a / s_a) + L log(c_b / s_b) + (a^2 + M s_a) / c_a + (b^2 + L s_b) / c_b - L - M
    + ((a^2 + M s_a)(b^2 + L s_b) - 2 a b gamma) / noise, and 0 without the component (c -> 0).
    gamma: [L], noise: [P] -> 2 F / M [P] and the kept values a b [P, L].
    """
    noise = noise[:, None]
    a = np.sqrt(gamma) + np.zeros_like(noise)  # [P, L]
    b = a.copy()
    s_a, s_b, c_a, c_b = (np.full_like(a, 1.0) for _ in range(4))
    for _ in range(20_000):
        s_a = noise / (b**2 + rows * s_b + noise / c_a)
        a = s_a * gamma * b / noise
        s_b = noise / (a**2 + columns * s_a + noise / c_b)
        b = s_b * gamma * a / noise
        c_a, c_b = a**2 / columns + s_a, b**2 / rows + s_b
    sizes = (a**2 + columns * s_a, b**2 + rows * s_b)
    share = columns * np.log(c_a / s_a) + rows * np.log(c_b / s_b) - rows - columns
    share += sizes[0] / c_a + sizes[1] / c_b + (sizes[0] * sizes[1] - 2 * a * b * gamma) / noise
    kept = share < -1e-6
    total = (gamma**2 / noise + np.where(kept, share, 0.0)).sum(1)
    return total / columns + rows * np.log(noise[:, 0]), np.where(kept, a * b, 0.0)


@pytest.mark.parametrize(
    ("rows", "columns", "signal"),
    [(4, 9, []), (5, 40, [9.0, 4.0]), (6, 12, [12.0, 8.0]), (6, 60, [30.0, 4.0, 3.0]), (8, 8, [7])],
)
def test_closed_form_is_the_least_free_energy(rows: int, columns: int, signal: list[float]) -> None:
    matrix = planted(rows, columns, signal, noise=0.5, seed=7)
    gamma = np.linalg.svd(matrix, compute_uv=False)
    noise = np.geomspace(0.02, 1.1, 150) * (gamma**2).sum() / (rows * columns)
    energy, _ = brute_force(gamma, rows, columns, noise)
    np.testing.assert_allclose(free_energy(np.log(noise), gamma**2, columns), energy, atol=1e-5)

    best = int(energy.argmin())
    assert noise[best - 1] < noise_variance(gamma**2, columns) < noise[best + 1]
    # the kept values at exactly the noise that was found
    at_best = np.array([noise_variance(gamma**2, columns)])
    expected = brute_force(gamma, rows, columns, at_best)[1][0]
    np.testing.assert_allclose(low_rank_values(matrix), expected[expected > 0], rtol=1e-5)


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=40),
    st.integers(0, 200),
)
def test_no_noise_of_a_fine_grid_beats_the_one_found(logs: list[float], more: int) -> None:
    squares = np.sort(10 ** np.array(logs))[::-1]
    columns = len(logs) + more
    found = math.log(noise_variance(squares, columns))
    grid = np.linspace(math.log(squares.min() / columns / 10), math.log(squares.max()), 4000)
    energies = free_energy(np.append(grid, found), squares, columns)
    assert energies[-1] <= energies[:-1].min() + 1e-6


def test_singular_values_from_the_gram_matrix_are_accurate() -> None:
    # two hundred noise-free values over four decades: more than a trained layer has
    wanted = np.geomspace(1, 1e-4, 60)
    left, right = orthonormal(200, 60, 1), orthonormal(90, 60, 2)
    np.testing.assert_allclose(
        low_rank_values(left * wanted @ right.T)[:40], wanted[:40], rtol=1e-3
    )
    matrix = planted(64, 576, list(np.geomspace(500, 20, 20)), noise=0.1)
    gamma = np.linalg.svd(matrix, compute_uv=False)
    gram = np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T)[::-1])
    np.testing.assert_allclose(gram, gamma, rtol=1e-8)


# properties


@pytest.mark.parametrize("shape", [(64, 64, 3, 3), (16, 96, 1, 1), (128, 32, 3, 3), (10, 256)])
def test_random_weights_give_low_rank(shape: tuple[int, ...]) -> None:
    found = quality(torch.from_numpy(gaussian(*shape)).float())
    assert found.in_rank <= 1 and found.out_rank <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_a_planted_rank_is_found(rank: int, seed: int) -> None:
    # noise alone has singular values up to sqrt(48) + sqrt(288) = 24
    matrix = planted(48, 32 * 9, [float(v) for v in np.linspace(90, 45, rank)], 1.0, seed)
    assert quality(conv_weight(matrix, 48, 32, 3, 3)).out_rank == rank
    swapped = conv_weight(matrix, 48, 32, 3, 3).transpose(0, 1)
    assert quality(swapped).in_rank == rank
    assert quality(conv_weight(matrix, 48, 288)).in_rank == rank


def test_noise_variance_is_found() -> None:
    matrix = planted(60, 200, [60.0, 50.0], noise=0.3)
    found = noise_variance(np.linalg.svd(matrix, compute_uv=False) ** 2, 200)
    assert found == pytest.approx(0.09, rel=0.05)


def same(one: LayerQuality, other: LayerQuality) -> None:
    assert (one.in_rank, one.out_rank) == (other.in_rank, other.out_rank)
    for name in ("in_qc", "out_qc", "in_condition", "out_condition"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5), name


def test_rotations_change_nothing() -> None:
    matrix = planted(30, 80, [40.0, 30.0, 25.0], noise=1.0)
    rotated = orthonormal(30, 30, 5) @ matrix @ orthonormal(80, 80, 6)
    same(quality(torch.from_numpy(matrix)), quality(torch.from_numpy(rotated)))


@given(st.floats(1e-12, 1e12))
def test_scale_changes_nothing(scale: float) -> None:
    weight = torch.from_numpy(planted(20, 54, [40.0, 30.0, 25.0], noise=1.0)).view(20, 6, 3, 3)
    same(quality(weight), quality(scale * weight))


def test_transposing_swaps_the_sides() -> None:
    weight = conv_weight(planted(24, 90, [40.0, 30.0], noise=1.0), 24, 10, 3, 3)
    one, other = quality(weight), quality(weight.transpose(0, 1))
    assert one.in_rank != one.out_rank
    swapped = {name: getattr(other, flip(name)) for name in vars(other)}
    same(one, LayerQuality(**swapped))


def flip(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"in": "out", "out": "in"}[side] + "_" + rest


def test_a_linear_layer_has_one_spectrum_and_two_dims() -> None:
    found = quality(torch.from_numpy(planted(20, 60, [90.0, 45.0], noise=1.0)))
    assert found.in_rank == found.out_rank == 2
    share = 1 - 1 / found.in_condition
    assert found.out_qc == math.atan2(2 / 20, share)
    assert found.in_qc == math.atan2(2 / 60, share)
    assert found.in_condition == pytest.approx(2, rel=0.2)


def test_without_noise_every_value_counts() -> None:
    # what a layer is right after a truncated SVD; float32 leaves its rounding
    weight = conv_weight(planted(40, 90, [8.0, 4.0, 2.0, 1.0], noise=0.0), 40, 90)
    found = quality(weight)
    assert found.out_rank == 4
    assert found.out_condition == pytest.approx(8, rel=1e-3)
    assert found.out_qc == pytest.approx(math.atan2(0.1, 7 / 8), rel=1e-3)


def test_rank_one_has_condition_one_and_the_largest_qc() -> None:
    found = quality(conv_weight(planted(32, 90, [50.0], noise=1.0), 32, 90))
    assert (found.out_rank, found.out_condition, found.out_qc) == (1, 1.0, math.pi / 2)


NOTHING = LayerQuality(
    in_qc=0.0, out_qc=0.0, in_rank=0, out_rank=0, in_condition=0.0, out_condition=0.0
)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(8, 4, 3, 3),
        torch.zeros(1, 1),
        torch.full((1, 1), 3.0),
        torch.arange(1.0, 8.0)[None],
        torch.ones(1, 1, 3, 3),
        torch.ones(5, 1),
    ],
)
def test_zeros_and_single_rows_have_nothing_above_noise(weight: Tensor) -> None:
    assert quality(weight) == NOTHING


def test_zero_channels_do_not_hide_the_others() -> None:
    weight = conv_weight(planted(16, 90, [50.0, 40.0], noise=1.0), 16, 90)
    padded = torch.cat([weight, torch.zeros(4, 90)])
    assert quality(padded).out_rank >= 2


# groups


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_unfolding_of_groups_by_loops(groups: int) -> None:
    out_channels, in_channels = 12, 6
    weight = torch.from_numpy(gaussian(out_channels, in_channels // groups, 3, 2))
    outgoing, incoming = unfold(weight, groups)
    each_in, each_out = in_channels // groups, out_channels // groups
    for o in range(out_channels):
        assert (outgoing[o] == weight[o].flatten().numpy()).all()
    for i in range(in_channels):
        group, place = divmod(i, each_in)
        rows = weight[group * each_out : (group + 1) * each_out, place]
        assert (incoming[i] == rows.flatten().numpy()).all()


def test_depthwise_filters_are_measured_against_their_own_size() -> None:
    weight = conv_weight(planted(96, 9, [60.0, 50.0, 40.0], noise=1.0), 96, 1, 3, 3)
    found = quality(weight, groups=96)
    assert found.in_rank == found.out_rank == 3
    assert found.in_qc == found.out_qc == math.atan2(3 / 9, 1 - 1 / found.out_condition)


def test_grouped_convolutions_know_which_side_is_low() -> None:
    matrix = planted(64, 4 * 9, [90.0, 60.0], noise=1.0)
    found = quality(conv_weight(matrix, 64, 4, 3, 3), groups=8)
    assert found.out_rank == 2
    assert found.out_qc == math.atan2(2 / 36, 1 - 1 / found.out_condition)


def test_sides_of_a_grouped_1x1_convolution_are_not_transposes() -> None:
    weight = conv_weight(planted(64, 8, [90.0, 60.0], noise=0.5), 64, 8, 1, 1)
    found = quality(weight, groups=8)
    incoming = low_rank_values(unfold(weight, 8)[1])
    assert found.in_condition == incoming[0] / incoming[-1] != found.out_condition


# models and momentum


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)),
        nn.Linear(16, 4),
    )


def test_qualities_name_convolutions_and_linear_layers() -> None:
    model = net()
    found = qualities(model)
    assert list(found) == ["0", "2.0", "2.1", "3"]
    assert found["2.0"] == quality(model[2][0].weight, groups=8)


def test_weights_that_are_not_finite_are_an_error_with_the_layers_name() -> None:
    model = net()
    with torch.no_grad():
        model[2][1].weight[3, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"layer '2\.1'.* not finite"):
        qualities(model)


def layer(in_qc: float, out_qc: float) -> LayerQuality:
    return LayerQuality(
        in_qc=in_qc, out_qc=out_qc, in_rank=1, out_rank=1, in_condition=1.0, out_condition=1.0
    )


def test_momentum_and_change_by_hand() -> None:
    momentum = Momentum(0.5)
    members = [("a", "out"), ("b", "in")]
    momentum.update({"a": layer(9.0, 1.0), "b": layer(0.5, 9.0)})
    assert momentum.change(members) == 0.0
    momentum.update({"a": layer(9.0, 0.8), "b": layer(0.3, 9.0)})
    # a.out: 1 -> 1.3, b.in: 0.5 -> 0.55
    assert momentum.change(members) == pytest.approx((0.3 + 0.05) / 2)
    momentum.update({"a": layer(9.0, 0.0), "b": layer(0.0, 9.0)})
    assert momentum.change(members) == pytest.approx(-(0.65 + 0.275) / 2)
    assert momentum.change([("a", "in")]) == pytest.approx(15.75 - 13.5)


def test_momentum_goes_on_from_its_state() -> None:
    rows = [{"a": layer(0.1 * t, 0.3), "b": layer(0.2, 0.7 / (1 + t))} for t in range(5)]
    whole, first, resumed = Momentum(), Momentum(), Momentum()
    for row in rows:
        whole.update(row)
    for row in rows[:3]:
        first.update(row)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for row in rows[3:]:
        resumed.update(row)
    members = [("a", "in"), ("b", "out")]
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.change(members) == whole.change(members) != 0


@pytest.mark.parametrize("gamma", [-0.1, 1.0, math.nan])
def test_gamma_has_a_range(gamma: float) -> None:
    with pytest.raises(MobileNASError, match="gamma is"):
        Momentum(gamma)
