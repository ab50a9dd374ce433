import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenas.core.errors import DivergedError
from mobilenas.core.files import load_checkpoint, save_checkpoint
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, Split
from mobilenas.search import SearchSettings, loop
from mobilenas.search.epoch_metrics import epoch_metrics
from mobilenas.search.loop import Searcher
from mobilenas.search.parts import Sampling
from mobilenas.supernet.schedules import EntropySchedule, Temperature
from mobilenas.supernet.settings import SAMPLERS, SamplerSettings

SAMPLINGS = get_args(Sampling)
PLAIN = {
    "epochs": 3,
    "warmup": 1,
    "batch_size": 16,
    "sampling": "gumbel",
    "learning_rate": 0.05,
    "alpha_learning_rate": 0.05,
    "sampler": SamplerSettings(name="full", partial=1),
    "temperature": Temperature(start=1.0, end=0.5),
    "entropy": EntropySchedule(weight=0.01, shape="linear", start=0.0),
    "constraint": "lagrangian",
}


def sampler(name: str) -> SamplerSettings:
    return SamplerSettings(name=name, partial=1 if name == "full" else 4)


@pytest.fixture
def make(micro_budgets: Budgets, micro_images: ImageData) -> Any:
    def make(**changes: Any) -> Searcher:
        settings = SearchSettings(**{**PLAIN, **changes})
        return Searcher(micro_budgets, micro_images, settings, seed=3)

    return make


def weights(searcher: Searcher) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in searcher.net.named_parameters()}


def alphas(searcher: Searcher) -> dict[str, torch.Tensor]:
    return {name: a.detach().clone() for name, a in searcher.alphas.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("paths", SAMPLINGS)
def test_warm_up_trains_weights_and_later_epochs_alphas_too(
    make: Any, paths: str, name: str
) -> None:
    searcher = make(sampling=paths, sampler=sampler(name))
    w, a = weights(searcher), alphas(searcher)
    record = searcher.run_epoch()
    assert same(alphas(searcher), a)
    assert not same(weights(searcher), w)
    assert record.epoch == searcher.epochs_done == 1
    assert record.alpha_loss == 0
    later = searcher.run_epoch()
    assert not same(alphas(searcher), a)
    assert later.alpha_loss > 0
    for figure in ("loss", "weight_gradient_norm", "alpha_gradient_norm", "seconds"):
        assert 0 < getattr(later, figure) < float("inf")


def test_the_last_epoch_has_the_last_temperature(make: Any) -> None:
    searcher = make()
    assert [searcher.tau_at(epoch) for epoch in range(3)] == pytest.approx([1.0, 1.0, 0.5])
    for _ in range(3):
        searcher.run_epoch()
    assert searcher.tau == pytest.approx(0.5)


def test_the_second_order_step_moves_alphas_only(make: Any) -> None:
    searcher = make(sampling="softmax", warmup=0, order=2)
    searcher.start_epoch(0)
    searcher.net.train()
    batches = (
        searcher._batches(half, 0, 0) for half in (searcher.weight_half, searcher.alpha_half)
    )
    train, val = (next(given) for given in batches)
    w, a = weights(searcher), alphas(searcher)
    loss, _ = searcher.alpha_step(*val, train=train).tolist()
    assert 0 < loss < float("inf")
    assert same(weights(searcher), w)
    assert not same(alphas(searcher), a)


def test_weights_and_alphas_learn_from_disjoint_halves(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = make(warmup=0)
    halves = [set(half.indices.tolist()) for half in (searcher.weight_half, searcher.alpha_half)]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(searcher.data.train.indices.tolist())

    drawn = []
    plain = loop.batches

    def spy(split: Split, *given: Any, **more: Any) -> Any:
        drawn.append((split, more["seed"] is not None))
        return plain(split, *given, **more)

    monkeypatch.setattr(loop, "batches", spy)
    searcher.run_epoch()
    trains = {id(split) for split, shuffled in drawn if shuffled}
    assert trains == {id(searcher.weight_half), id(searcher.alpha_half)}
    for split, shuffled in drawn:
        assert shuffled or split.store is searcher.data.val.store
    assert searcher.weight_half.store is searcher.data.train.store


@pytest.mark.parametrize("paths", SAMPLINGS)
def test_a_step_of_one_kind_leaves_the_other_alone(make: Any, paths: str) -> None:
    searcher = make(sampling=paths, warmup=0)
    searcher.start_epoch(0)
    searcher.net.train()
    x, y = next(searcher._batches(searcher.weight_half, 0, 0))
    w, a = weights(searcher), alphas(searcher)
    searcher.alpha_step(x, y)
    assert same(weights(searcher), w)
    assert not same(alphas(searcher), a)
    assert all(v.requires_grad and v.grad is None for v in searcher.net.parameters())
    a = alphas(searcher)
    searcher.weight_step(x, y, 0)
    assert same(alphas(searcher), a)
    assert not same(weights(searcher), w)


@pytest.mark.parametrize(
    ("paths", "name"),
    [*((paths, "full") for paths in SAMPLINGS), ("gumbel", "random"), ("gumbel", "ranked")],
)
@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_resumed_search_is_the_same_to_the_bit(
    make: Any, tmp_path: Any, paths: str, name: str, killed_after: int
) -> None:
    changes = {"sampling": paths, "sampler": sampler(name)}
    whole, killed, resumed = (make(**changes) for _ in range(3))
    records = [whole.run_epoch() for _ in range(3)]
    for _ in range(killed_after):
        killed.run_epoch()
    save_checkpoint(tmp_path / "state.pt", killed.state_dict())
    torch.rand(3)  # nothing depends on the global generator
    state = load_checkpoint(tmp_path / "state.pt")
    assert state is not None
    resumed.load_state_dict(state)
    for record in records[killed_after:]:
        assert replace(resumed.run_epoch(), seconds=0) == replace(record, seconds=0)
    assert same(weights(resumed), weights(whole))
    assert same(alphas(resumed), alphas(whole))
    assert same(resumed.net.state_dict(), whole.net.state_dict())
    assert resumed.constraint.state_dict() == whole.constraint.state_dict()


def test_the_seed_decides(make: Any) -> None:
    one, two = make(), make()
    other = Searcher(one.budgets, one.data, one.settings, seed=4)
    for searcher in (one, two, other):
        searcher.run_epoch()
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_a_poisoned_weight_is_an_error_with_epoch_and_step(make: Any) -> None:
    searcher = make()
    searcher.run_epoch()
    next(searcher.net.parameters()).data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="epoch 2, step 1 of the search"):
        searcher.run_epoch()


def test_a_gradient_that_is_not_finite_is_an_error(make: Any) -> None:
    searcher = make()
    weight = searcher.net.classifier.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergedError, match=r"gradient is .* at epoch 1, step 1 of the search"):
        searcher.run_epoch()


def counted(monkeypatch: pytest.MonkeyPatch, then: Callable[[Searcher], object]) -> list[Tensor]:
    """Return what every step of the weights returns from now on, each followed by `then`."""
    figures: list[Tensor] = []
    plain = Searcher.weight_step

    def step(self: Searcher, *given: Any) -> Tensor:
        figures.append(plain(self, *given))
        then(self)
        return figures[-1]

    monkeypatch.setattr(Searcher, "weight_step", step)
    return figures


def test_an_alpha_loss_that_is_not_finite_is_an_error(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = make(warmup=0)
    # the last weight step of an epoch can do this; no weight step would notice
    poison = lambda searcher: next(searcher.net.parameters()).data.fill_(float("nan"))  # noqa: E731
    counted(monkeypatch, poison)
    with pytest.raises(DivergedError, match="epoch 1, step 1 of the search"):
        searcher.run_epoch()


def test_losses_are_read_every_16_steps(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = make(batch_size=2)
    figures = counted(monkeypatch, lambda _: None)
    loss = searcher.run_epoch().loss
    assert len(figures) == len(searcher.weight_half) // 2 > 16
    assert loss == pytest.approx(torch.stack(figures)[:, 0].mean().item())
    del figures[:]
    next(searcher.net.parameters()).data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="epoch 2, step 1 of the search"):
        searcher.run_epoch()
    assert len(figures) == 16


def test_an_error_that_nan_causes_is_reported_as_nan(make: Any) -> None:
    searcher = make(warmup=0, sampling="single-path")
    for alpha in searcher.alphas.parameters():
        alpha.register_hook(lambda gradient: gradient * float("inf"))
    # the second step cannot draw a network from such alphas
    with pytest.raises(DivergedError, match="epoch 1, step 1 of the search") as found:
        searcher.run_epoch()
    assert isinstance(found.value.__context__, ValueError)


class Waits(TorchDispatchMode):
    """Counts reads of single floats, for which a GPU has to finish all its work."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].is_floating_point()  # integers are counts, on the CPU
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("paths", ["gumbel", "softmax"])
def test_a_step_of_the_weights_reads_nothing(make: Any, paths: str) -> None:
    searcher = make(sampling=paths)
    searcher.start_epoch(0)
    x, y = next(searcher._batches(searcher.weight_half, 0, 0))
    with Waits() as waits:
        figures = searcher.weight_step(x, y, 0)
        assert waits.count == 0
        figures[0].item()
        assert waits.count == 1


def test_mixed_precision_leaves_alphas_and_budgets_alone(
    micro_budgets: Budgets, micro_images: ImageData
) -> None:
    plain, half, mixed = (
        Searcher(
            micro_budgets, micro_images, SearchSettings(**PLAIN | {"warmup": 0}), seed=3, amp=amp
        )
        for amp in ("off", "float16", "bfloat16")
    )
    assert plain.run_epoch().loss == half.run_epoch().loss
    mixed.start_epoch(0)
    x, y = next(mixed._batches(mixed.weight_half, 0, 0))
    mixed.alpha_step(x, y)
    other = Searcher(micro_budgets, micro_images, mixed.settings, seed=3)
    other.start_epoch(0)
    other.alpha_step(x, y)
    assert mixed.constraint.multipliers == other.constraint.multipliers
    for name, alpha in mixed.alphas.named_parameters():
        gradient = dict(other.alphas.named_parameters())[name].grad
        assert alpha.dtype == alpha.grad.dtype == torch.float32
        torch.testing.assert_close(alpha.grad, gradient, rtol=0.1, atol=1e-3)
    assert not torch.equal(mixed.weight_step(x, y, 0), other.weight_step(x, y, 0))


def test_a_stronger_penalty_makes_cheaper_networks_likelier(make: Any) -> None:
    expected = []
    for strength in (0.0, 0.1, 1.0):
        searcher = make(
            constraint="penalty", strength=strength, warmup=0, epochs=6, alpha_learning_rate=0.3
        )
        figures = [searcher.run_epoch() for _ in range(6)]
        expected.append(epoch_metrics(searcher, figures[-1]).expected["flops"])
    assert expected[0] > expected[1] > expected[2]


def test_state_dict_names_all_that_later_epochs_need(make: Any) -> None:
    searcher = make(warmup=0)
    searcher.run_epoch()
    before = copy.deepcopy(searcher.state_dict())
    searcher.load_state_dict(before)
    after = searcher.state_dict()
    assert before.keys() == after.keys()
    assert same(before["net"], after["net"])
    assert before["epochs_done"] == 1
