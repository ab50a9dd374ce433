import io
import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.cell.relaxation import CellAlphas
from mobilenas.spaces.cell.settings import EDGE_WEIGHTS
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice, CellSpace, EdgeTarget
from mobilenas.spaces.cell.table import CellProbabilities

OPERATIONS = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
TARGETS = ("1/node", "2/node", "3/cell")

by_target = pytest.mark.parametrize("target", TARGETS)
by_weights = pytest.mark.parametrize("weights", EDGE_WEIGHTS)
by_none = pytest.mark.parametrize("none", [False, True])


def space(target: str) -> CellSpace:
    """Three nodes: edges 0 and 1, 2 to 4, and 5 to 8."""
    fields: dict[str, Any] = {"image_size": 16, "in_channels": 3, "classes": 5}
    edges = EdgeTarget.parse(target, 3)
    return CellSpace(**fields, nodes=3, operations=OPERATIONS, edges=edges)


def fresh(target: str = "2/node", weights: str = "clipped", *, none: bool = False) -> CellAlphas:
    return CellAlphas(space(target), none=none, edge_weights=weights).double()


def drawn(
    target: str = "2/node",
    weights: str = "clipped",
    *,
    none: bool = False,
    scale: float = 1.5,
    seed: int = 0,
) -> CellAlphas:
    """Alphas and betas of `scale`: some betas are above 1, some below 0."""
    alphas, generator = fresh(target, weights, none=none), torch.Generator().manual_seed(seed)
    for values in alphas.parameters():
        values.data.copy_(scale * torch.randn(values.shape, generator=generator))
    return alphas


def groups(target: str) -> list[list[int]]:
    return [list(range(9))] if target == "3/cell" else [[0, 1], [2, 3, 4], [5, 6, 7, 8]]


def counts(target: str) -> list[int]:
    """Edges to keep of each group."""
    return {"1/node": [1, 1, 1], "2/node": [2, 2, 2], "3/cell": [3]}[target]


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def edge_weights(alphas: CellAlphas, target: str, kind: str) -> list[float]:
    """The weight of each edge, by a plain loop."""
    if alphas.edge_weights == "none":
        return [1.0] * 9
    betas = alphas.betas[kind].tolist()
    if alphas.edge_weights == "clipped":
        betas = [min(beta, 1.0) for beta in betas]
    return [share for group in groups(target) for share in softmax([betas[e] for e in group])]


def capped(scores: Sequence[float], count: int) -> list[float]:
    """min(1, c s) that sums to `count`: c is found by halving."""
    low, high = 0.0, count / min(scores)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, middle * score) for score in scores) < count:
            low = middle
        else:
            high = middle
    return [min(1.0, high * score) for score in scores]


def edge_loss(betas: Sequence[float], target: str) -> float:
    """L_E of one cell in closed form."""
    total = 0.0
    for group, count in zip(groups(target), counts(target), strict=True):
        clipped = [min(betas[edge], 1.0) for edge in group]
        total -= sum(share * math.log(share) for share in softmax(clipped))
        total += 0.2 * (sum(max(0.0, value) for value in clipped) - count) ** 2
    return total


def set_betas(alphas: CellAlphas, betas: Tensor) -> float:
    """Give both cells these betas; return L_E."""
    for values in alphas.betas.values():
        values.data.copy_(betas)
    return alphas.edge_entropy().item()


def at_k(target: str) -> Tensor:
    """Betas of 1 for the last k edges of every group, the rest far below."""
    betas = torch.full((9,), -30.0, dtype=torch.float64)
    for group, count in zip(groups(target), counts(target), strict=True):
        betas[group[-count:]] = 1.0
    return betas


def close(actual: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    wanted = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual.detach(), wanted, rtol=tolerance, atol=tolerance)


def same(p: CellProbabilities, q: CellProbabilities, *names: str) -> None:
    for name in names:
        for kind in KINDS:
            assert torch.equal(getattr(p, name)[kind], getattr(q, name)[kind])


@by_none
@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_soft_is_the_softmax_at_the_temperature(tau: float, none: bool) -> None:
    alphas = drawn(none=none)
    p = alphas.soft(tau)
    for kind in KINDS:
        rows = alphas.operations[kind].tolist()
        assert len(rows) == 9 and len(rows[0]) == len(OPERATIONS) + none
        close(p.operations[kind].sum(-1), [1.0] * 9)
        close(p.operations[kind], [softmax([logit / tau for logit in row]) for row in rows])


def test_none_is_the_last_column() -> None:
    alphas = fresh(none=True)
    alphas.operations["normal"].data[4, -1] = 50.0
    p = alphas.soft(1.0)
    assert p.operations["normal"][4, len(OPERATIONS)].item() == pytest.approx(1)
    # the edge that does nothing is the one that goes
    assert p.kept["normal"][4].item() < 1e-9
    close(p.kept["normal"][:4], [1, 1, 1, 1])


@by_target
@by_weights
def test_edges_are_weighed_within_their_group(target: str, weights: str) -> None:
    alphas = drawn(target, weights)
    assert set(alphas.betas) == (set() if weights == "none" else set(KINDS))
    for kind in KINDS:
        expected = edge_weights(alphas, target, kind)
        close(alphas.soft(1.0).edges[kind], expected)
        close(alphas.soft(0.1).edges[kind], expected)  # whatever the temperature
        if weights != "none":
            assert sum(expected) == pytest.approx(len(groups(target)))


def test_unknown_edge_weights_are_refused() -> None:
    with pytest.raises(MobileNASError, match="softmx"):
        CellAlphas(space("2/node"), none=False, edge_weights="softmx")


@by_target
@by_weights
@by_none
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_kept_is_the_capped_share_of_the_best_operation(
    target: str, weights: str, none: bool, scale: float
) -> None:
    alphas = drawn(target, weights, none=none, scale=scale)
    p = alphas.soft(0.8)
    for kind in KINDS:
        weighed = zip(edge_weights(alphas, target, kind), p.operations[kind].tolist(), strict=True)
        scores = [weight * max(row[: len(OPERATIONS)]) for weight, row in weighed]
        expected: list[float] = []
        for group, count in zip(groups(target), counts(target), strict=True):
            expected += capped([scores[edge] for edge in group], count)
            assert p.kept[kind][group].sum().item() == pytest.approx(count)
        close(p.kept[kind], expected, 1e-7)
        assert bool(((p.kept[kind] >= 0) & (p.kept[kind] <= 1)).all())


@by_target
@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
def test_kept_holds_its_sum_however_sure_the_alphas_are(target: str, scale: float) -> None:
    alphas = drawn(target, "softmax", none=True, scale=scale).float()
    kept = alphas.soft(0.1).kept
    for kind in KINDS:
        assert bool(((kept[kind] >= 0) & (kept[kind] <= 1)).all())
        for group, count in zip(groups(target), counts(target), strict=True):
            assert kept[kind][group].sum().item() == pytest.approx(count, rel=1e-5)
    torch.stack([(kept[kind] * torch.arange(9.0)).sum() for kind in KINDS]).sum().backward()
    for values in alphas.parameters():
        assert values.grad is not None and bool(values.grad.isfinite().all())


@pytest.mark.parametrize("target", ["2/node", "3/cell"])
@by_weights
def test_the_gradient_of_kept_is_that_of_differences(target: str, weights: str) -> None:
    alphas = drawn(target, weights, none=True, seed=3)
    for kind in KINDS:
        alphas.operations[kind].data[[3, 8], 0] += 6.0
        alphas.operations[kind].data[[0, 1, 2, 4, 5, 6, 7], -1] += 6.0
    # some of the edges that compete are certain and others are not
    certain = (alphas.soft(0.7).kept["normal"] == 1).tolist()
    assert any(certain[2:]) and not all(certain[2:])
    assert torch.autograd.gradcheck(
        lambda *_: tuple(alphas.soft(0.7).kept.values()), tuple(alphas.parameters())
    )


@by_target
@by_weights
@by_none
def test_scores_are_logs_that_leave_none_its_share(target: str, weights: str, none: bool) -> None:
    alphas = drawn(target, weights, none=none)
    scores = alphas.scores()
    for kind in KINDS:
        rows = [softmax(row)[: len(OPERATIONS)] for row in alphas.operations[kind].tolist()]
        expected = [
            [math.log(weight) + math.log(p) for p in row]
            for weight, row in zip(edge_weights(alphas, target, kind), rows, strict=True)
        ]
        close(scores[kind], expected)
        assert scores[kind].dtype == torch.float64 and not scores[kind].requires_grad


def test_scores_tell_weights_apart_that_are_0_in_float32() -> None:
    alphas = fresh(weights="softmax").float()
    alphas.betas["normal"].data[:5] = torch.tensor([300.0, 0, 300, 0, 10])
    assert alphas.soft(1.0).edges["normal"][[1, 3, 4]].tolist() == [0, 0, 0]
    third = math.log(1 / 3)
    expected = [third, third - 300, third, third - 300, third - 290]
    close(alphas.scores()["normal"][:5, 0], expected, 1e-6)


@by_none
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_entropy_is_that_of_the_operations(none: bool, tau: float) -> None:
    alphas = fresh(none=none)
    columns = len(OPERATIONS) + none
    assert alphas.entropy(tau).item() == pytest.approx(2 * 9 * math.log(columns))
    for kind in KINDS:
        alphas.operations[kind].data[:, 1] = 1000.0
    assert alphas.entropy(tau).item() == pytest.approx(0, abs=1e-9)
    alphas.operations["reduce"].data[2] = 0.0  # one edge of one cell
    assert alphas.entropy(tau).item() == pytest.approx(math.log(columns))

    alphas = drawn(none=none)
    expected = 0.0
    for kind in KINDS:
        for row in alphas.operations[kind].tolist():
            expected -= sum(p * math.log(p) for p in softmax([logit / tau for logit in row]))
    assert alphas.entropy(tau).item() == pytest.approx(expected)
    rows = tuple(alphas.operations.values())
    assert torch.autograd.gradcheck(lambda *_: alphas.entropy(tau), rows, eps=1e-7, atol=1e-4)


@by_target
@pytest.mark.parametrize("seed", range(3))
def test_the_edge_entropy_is_its_closed_form(target: str, seed: int) -> None:
    for weights in ("softmax", "clipped"):
        alphas = drawn(target, weights, seed=seed)
        expected = sum(edge_loss(alphas.betas[kind].tolist(), target) for kind in KINDS)
        assert alphas.edge_entropy().item() == pytest.approx(expected)
        betas = tuple(alphas.betas.values())
        assert torch.autograd.gradcheck(lambda *_, a=alphas: a.edge_entropy(), betas)


@by_target
def test_edges_without_weights_have_no_edge_entropy(target: str) -> None:
    loss = drawn(target, "none").edge_entropy()
    assert loss.shape == () and loss.item() == 0


@by_target
def test_the_edge_entropy_is_smaller_at_k_edges_than_at_random(target: str) -> None:
    alphas, generator = fresh(target), torch.Generator().manual_seed(0)
    least = set_betas(alphas, at_k(target))
    assert least == pytest.approx(2 * sum(map(math.log, counts(target))), abs=1e-9)
    for _ in range(200):
        assert set_betas(alphas, torch.randn(9, generator=generator)) > least
        assert set_betas(alphas, torch.rand(9, generator=generator)) > least
        # nor is there a way down nearby; betas above 1 are betas of 1
        nearby = at_k(target) + 0.3 * torch.randn(9, generator=generator)
        assert set_betas(alphas, nearby) > least - 1e-9


@by_target
def test_one_edge_too_many_costs_edge_entropy(target: str) -> None:
    alphas, betas = fresh(target), at_k(target)
    least = set_betas(alphas, betas)
    count = counts(target)[-1]
    betas[groups(target)[-1][0]] = 1.0
    rise = set_betas(alphas, betas) - least
    assert rise == pytest.approx(2 * (math.log(count + 1) - math.log(count) + 0.2))


@by_target
def test_the_edge_entropy_lifts_betas_of_0(target: str) -> None:
    """Betas start there, where the entropy is flat: only the count can move them."""
    alphas = fresh(target)
    assert not any(values.any() for values in alphas.betas.values())
    alphas.edge_entropy().backward()
    for kind in KINDS:
        expected = [0.0] * 9
        for group, count in zip(groups(target), counts(target), strict=True):
            for edge in group:
                expected[edge] = -0.4 * count  # of 0.2 (sum - k)^2 at a sum of 0
        grad = alphas.betas[kind].grad
        assert grad is not None
        close(grad, expected)


def choose(target: str, seed: int = 0) -> CellChoice:
    choice = space(target).random(random.Random(seed))
    assert LEFT_OUT in choice.normal and choice.normal != choice.reduce
    return choice


@by_target
@by_weights
@by_none
def test_one_hot_is_certain_of_the_choice(target: str, weights: str, none: bool) -> None:
    alphas, choice = drawn(target, weights, none=none), choose(target)
    p = alphas.one_hot(choice)
    for kind in KINDS:
        picks, shares = choice.of(kind), edge_weights(alphas, target, kind)
        there = [pick != LEFT_OUT for pick in picks]
        columns = range(len(OPERATIONS) + none)
        close(p.operations[kind], [[float(pick == o) for o in columns] for pick in picks])
        close(p.kept[kind], list(map(float, there)))
        expected = [0.0] * 9
        for group in groups(target):
            total = sum(shares[edge] for edge in group if there[edge])
            for edge in group:
                if there[edge]:
                    expected[edge] = 1.0 if weights == "none" else shares[edge] / total
        close(p.edges[kind], expected)
        assert p.kept[kind].sum().item() == sum(counts(target))


def test_one_hot_shares_weights_that_are_0_in_float32() -> None:
    alphas = fresh(weights="softmax").float()
    alphas.betas["normal"].data[2:5] = torch.tensor([300.0, 0, 0])  # the node's weight is edge 2's
    picks = (0, 0, LEFT_OUT, 1, 2, 0, 0, LEFT_OUT, LEFT_OUT)
    p = alphas.one_hot(CellChoice(normal=picks, reduce=picks))
    close(p.edges["normal"], [0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.5, 0, 0])


@by_target
@by_weights
def test_discrete_operations_are_the_choices_else_the_likeliest(target: str, weights: str) -> None:
    alphas, choice = drawn(target, weights, none=True), choose(target)
    for kind in KINDS:
        alphas.operations[kind].data[:, -1] = 9.0  # `none` is likeliest and never taken
    p = alphas.operations_discrete(choice, 0.7)
    same(p, alphas.soft(0.7), "edges", "kept")
    differ = 0
    for kind in KINDS:
        rows = [row[: len(OPERATIONS)] for row in alphas.operations[kind].tolist()]
        likeliest = [row.index(max(row)) for row in rows]
        expected = [
            best if pick == LEFT_OUT else pick
            for pick, best in zip(choice.of(kind), likeliest, strict=True)
        ]
        differ += expected != likeliest
        close(p.operations[kind], [[float(o == pick) for o in range(4)] for pick in expected])
    assert differ


@by_none
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_a_gumbel_draw_is_a_relaxation(none: bool, hard: bool, tau: float) -> None:
    alphas = drawn(none=none)
    p = alphas.gumbel(tau, torch.Generator().manual_seed(0), hard=hard)
    same(p, alphas.soft(tau), "edges", "kept")
    for kind in KINDS:
        assert p.operations[kind].shape == alphas.operations[kind].shape
        close(p.operations[kind].sum(-1), [1.0] * 9)
        sure = ((p.operations[kind] == 0) | (p.operations[kind] == 1)).all()
        assert bool(sure) == hard


def test_a_hard_draw_has_the_gradient_of_the_soft_one() -> None:
    alphas, grads = drawn(none=True), []
    weights = torch.randn(9, 4, generator=torch.Generator().manual_seed(4))
    for hard in (False, True):
        alphas.zero_grad()
        p = alphas.gumbel(0.8, torch.Generator().manual_seed(3), hard=hard)
        torch.stack([(p.operations[kind] * weights).sum() for kind in KINDS]).sum().backward()
        grads.append([alphas.operations[kind].grad.clone() for kind in KINDS])
    for soft, hard_grad in zip(*grads, strict=True):
        assert bool((soft != 0).all())
        torch.testing.assert_close(soft, hard_grad)


def test_gumbel_draws_are_the_generators() -> None:
    alphas, before = drawn(), torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first, second = (alphas.gumbel(1.0, generator, hard=False) for _ in range(2))
    again = alphas.gumbel(1.0, torch.Generator().manual_seed(5), hard=False)
    same(first, again, "operations")
    assert not torch.equal(first.operations["normal"], second.operations["normal"])
    assert torch.equal(torch.get_rng_state(), before)  # torch's own is left alone
    flat = fresh().gumbel(1.0, generator, hard=False).operations
    assert not torch.equal(flat["normal"], flat["reduce"])  # each cell has its own noise


def test_gumbel_draws_follow_the_probabilities() -> None:
    alphas, generator = fresh(), torch.Generator().manual_seed(0)
    for kind in KINDS:
        alphas.operations[kind].data[:, 1] = math.log(6)  # 1/8, 6/8, 1/8
    draws = [
        alphas.gumbel(0.5, generator, hard=True).operations["normal"].detach() for _ in range(300)
    ]
    shares = torch.stack(draws).mean((0, 1)).tolist()  # of 2700 draws: a deviation of 0.0083
    assert shares == pytest.approx([0.125, 0.75, 0.125], abs=0.035)


@by_weights
def test_the_table_is_plain_and_rounded(weights: str) -> None:
    alphas = drawn(weights=weights, none=True)
    table = alphas.table()
    assert json.loads(json.dumps(table)) == table
    edges = set() if weights == "none" else {f"{kind}_edges" for kind in KINDS}
    assert set(table) == set(KINDS) | edges
    for kind in KINDS:
        rows = alphas.operations[kind].tolist()
        assert table[kind] == [[round(value, 4) for value in row] for row in rows]
        if edges:
            betas = alphas.betas[kind].tolist()
            assert table[f"{kind}_edges"] == [[round(beta, 4) for beta in betas]]


@by_weights
@by_none
def test_the_state_survives_a_file(weights: str, none: bool) -> None:
    alphas, file = drawn(weights=weights, none=none), io.BytesIO()
    torch.save(alphas.state_dict(), file)
    file.seek(0)
    copy = fresh(weights=weights, none=none)
    copy.load_state_dict(torch.load(file, weights_only=True))
    same(copy.soft(0.5), alphas.soft(0.5), "operations", "edges", "kept")
    assert copy.table() == alphas.table()
    assert len(list(copy.parameters())) == (2 if weights == "none" else 4)
