import math
import random
from itertools import islice

import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.table import DECISIONS
from mobilenas.supernet.schedules import Temperature


@pytest.fixture
def alphas(tiny_space: MobileSpace) -> Alphas:
    module = Alphas(tiny_space)
    for logits in module.logits.values():
        logits.data.normal_(generator=torch.Generator().manual_seed(1))
    return module


def legal(alphas: Alphas, name: str) -> torch.Tensor:
    mask = getattr(alphas, f"legal_{name}")
    assert isinstance(mask, torch.Tensor)
    return mask


def test_the_temperature_falls_geometrically_after_warm_up() -> None:
    schedule = Temperature(start=1.0, end=0.01)
    taus = [schedule.at(epoch, 2, 7) for epoch in range(8)]
    expected = [1, 1, 1, 10**-0.5, 0.1, 10**-1.5, 0.01, 0.01]
    assert taus == pytest.approx(expected)
    assert schedule.at(3.5, 2, 7) == pytest.approx(10**-0.75)  # within an epoch, too
    assert Temperature(start=0.5, end=0.5).at(4, 2, 7) == 0.5
    assert schedule.at(0, 0, 1) == 1.0


@pytest.mark.parametrize(
    ("text", "start", "end"), [("1:0.1", 1, 0.1), ("2", 2, 2), ("5e-1:0.25", 0.5, 0.25)]
)
def test_a_temperature_is_read_as_written(text: str, start: float, end: float) -> None:
    assert Temperature.parse(text) == Temperature(start=start, end=end)


@pytest.mark.parametrize("text", ["", "hot", "1:", "1:0.5:0.1", "1,0.1"])
def test_an_unreadable_temperature_is_quoted(text: str) -> None:
    with pytest.raises(MobileNASError, match=f"temperature '{text}' cannot be read: write START:"):
        Temperature.parse(text)


@pytest.mark.parametrize("text", ["0", "1:0", "-1", "nan", "inf:1", "1:101"])
def test_a_temperature_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(MobileNASError, match=r"(start|end) is .*; it must be between 0.01 and 100"):
        Temperature.parse(text)


@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_uniform_alphas_have_the_entropy_of_their_options(
    tiny_space: MobileSpace, tau: float
) -> None:
    alphas = Alphas(tiny_space)
    options = [row.sum().item() for name in DECISIONS for row in legal(alphas, name)]
    assert alphas.entropy(tau).item() == pytest.approx(sum(map(math.log, options)), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("tau", [0.01, 1.0, 100.0])
def test_the_entropys_gradient_is_finite(alphas: Alphas, scale: float, tau: float) -> None:
    for logits in alphas.parameters():
        logits.data *= scale
    entropy = alphas.entropy(tau)
    entropy.backward()
    assert math.isfinite(entropy.item()) and entropy.item() >= 0
    for name in DECISIONS:
        grad = alphas.logits[name].grad
        assert grad is not None and bool(grad.isfinite().all())
        assert not grad[~legal(alphas, name)].any()


def test_descending_the_entropy_makes_the_likeliest_likelier(alphas: Alphas) -> None:
    alphas.entropy(1.0).backward()
    before = alphas.logits["kernel"].detach().softmax(-1)
    moved = alphas.logits["kernel"].detach() - 0.1 * alphas.logits["kernel"].grad
    assert bool((moved.softmax(-1).amax(-1) > before.amax(-1)).all())


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 100.0])
def test_options_a_decision_lacks_have_probability_0(alphas: Alphas, tau: float) -> None:
    relaxed = [alphas.soft(tau)]
    generator = torch.Generator().manual_seed(0)
    relaxed += [alphas.gumbel(tau, generator, hard=hard) for hard in (False, True)]
    for p in relaxed:
        for name in DECISIONS:
            assert not p[name][~legal(alphas, name)].any()
            torch.testing.assert_close(p[name].sum(-1), torch.ones(len(p[name])))


def test_soft_is_the_softmax_at_the_temperature(alphas: Alphas) -> None:
    row = alphas.logits["squeeze"].detach()
    weights = (row / 0.3).exp()
    expected = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(alphas.soft(0.3).squeeze.detach(), expected)


def test_a_hard_sample_is_one_hot_with_the_gradient_of_the_soft_one(alphas: Alphas) -> None:
    grads = []
    for hard in (False, True):
        alphas.zero_grad()
        p = alphas.gumbel(0.8, torch.Generator().manual_seed(3), hard=hard)
        weights = {
            name: torch.randn(p[name].shape, generator=torch.Generator().manual_seed(4))
            for name in DECISIONS
        }
        torch.stack([(p[name] * weights[name]).sum() for name in DECISIONS]).sum().backward()
        grads.append([logits.grad.clone() for logits in alphas.parameters()])
        if hard:
            for name in DECISIONS:
                values = p[name].detach()
                assert bool(((values == 0) | (values == 1)).all())
                assert bool((values.sum(-1) == 1).all())
    for soft_grad, hard_grad in zip(*grads, strict=True):
        torch.testing.assert_close(soft_grad, hard_grad)


def test_gumbel_samples_follow_the_probabilities(tiny_space: MobileSpace) -> None:
    alphas, generator = Alphas(tiny_space), torch.Generator().manual_seed(0)
    alphas.logits["squeeze"].data[:, 1] = math.log(3)
    draws = [alphas.gumbel(1.0, generator, hard=True).squeeze.detach() for _ in range(400)]
    assert torch.stack(draws).mean((0, 1))[1].item() == pytest.approx(0.75, abs=0.04)
    again = alphas.gumbel(1.0, torch.Generator().manual_seed(0), hard=True)
    assert torch.equal(again.squeeze, draws[0])


def test_draws_are_legal_and_follow_the_alphas(alphas: Alphas, tiny_space: MobileSpace) -> None:
    source = random.Random(0)
    choices = list(islice(alphas.draws(source, 1.0), 50))
    assert len(set(choices)) > 1
    for choice in choices:
        tiny_space.arch(choice)
        for name in DECISIONS:
            picks = [int(pick) for pick in getattr(choice, name)]
            assert bool(legal(alphas, name)[range(len(picks)), picks].all())
    assert next(alphas.draws(random.Random(0), 1.0)) == choices[0]
    assert next(alphas.draws(source, 0.01)) == alphas.likeliest()


def test_one_hot_is_certain_of_the_choice(alphas: Alphas, tiny_space: MobileSpace) -> None:
    choice = tiny_space.random(random.Random(2))
    p = alphas.one_hot(choice)
    for name in DECISIONS:
        assert p[name].argmax(-1).tolist() == [int(pick) for pick in getattr(choice, name)]
        assert bool((p[name].sum(-1) == 1).all()) and p[name].shape == legal(alphas, name).shape


def test_log_soft_is_the_log_of_the_probabilities(alphas: Alphas) -> None:
    log_p, p = alphas.scores(), alphas.soft(1.0)
    for name in DECISIONS:
        assert not log_p[name].requires_grad
        torch.testing.assert_close(log_p[name].exp().float(), p[name].detach())
