import pytest
import torch

from mobilenas.core.errors import MobileNASError
from mobilenas.supernet.samplers import (
    AttentionSampler,
    ChannelSampler,
    RankedSampler,
    ScoredSampler,
    make_sampler,
)
from mobilenas.supernet.settings import ATTENTIONS, SAMPLERS, SamplerSettings

CHANNELS = 16
PARTIAL = ["random", "attention", "ranked"]


def make(
    name: str, partial: int = 4, attention: str | None = None, channels: int = CHANNELS
) -> ChannelSampler:
    torch.manual_seed(0)
    settings = SamplerSettings(name=name, partial=partial, attention=attention)
    sampler = make_sampler(settings, channels)
    assert sampler is not None
    return sampler


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PARTIAL)
@pytest.mark.parametrize("partial", [2, 4, 8])
def test_one_in_k_channels_enter_in_order(name: str, partial: int) -> None:
    entering, places = make(name, partial)(images(), generator())
    assert entering.shape == (5, CHANNELS // partial, 4, 4)
    assert len(places) == CHANNELS // partial
    assert places.tolist() == sorted(set(places.tolist()))
    assert places.min() >= 0 and places.max() < CHANNELS


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_channel_enters_where_k_is_1_or_the_sampler_is_full(name: str) -> None:
    assert make_sampler(SamplerSettings(name=name, partial=1), CHANNELS) is None
    assert make_sampler(SamplerSettings(name="full", partial=4), CHANNELS) is None


def test_names_and_k_are_checked() -> None:
    with pytest.raises(MobileNASError, match="sampler is 'best'; it must be one of full, random"):
        SamplerSettings(name="best")
    with pytest.raises(MobileNASError, match="K is 3; it must be one of 1, 2, 4, 8"):
        SamplerSettings(name="random", partial=3)
    with pytest.raises(MobileNASError, match="attention is 'sse'; it must be one of se, eca, cbam"):
        SamplerSettings(attention="sse")
    for name in ("full", "random"):
        with pytest.raises(MobileNASError, match=f"sampler {name} has no scores"):
            SamplerSettings(name=name, attention="se")
    with pytest.raises(MobileNASError, match="K is 8, but there are 4 channels"):
        make_sampler(SamplerSettings(name="random", partial=8), 4)


def test_random_differs_between_steps_and_repeats_with_the_seed() -> None:
    sampler, source = make("random"), generator()
    steps = [sampler(images(), source)[1].tolist() for _ in range(8)]
    again = generator()
    assert [sampler(images(), again)[1].tolist() for _ in range(8)] == steps
    assert len({tuple(places) for places in steps}) > 1
    counts = torch.zeros(CHANNELS)
    for _ in range(400):
        counts[sampler(images(), source)[1]] += 1
    assert counts.min() > 60 and counts.max() < 140  # 100 expected of each channel


def test_random_passes_channels_as_they_are() -> None:
    entering, places = make("random")(images(), generator())
    assert torch.equal(entering, images()[:, places])


def test_attention_weighs_all_and_lets_the_largest_enter() -> None:
    sampler, x = make("attention"), images()
    assert isinstance(sampler, AttentionSampler)
    entering, places = sampler(x, generator())
    scores = sampler.mlp(x.mean((2, 3))) + sampler.mlp(x.flatten(2).max(-1).values)
    a = 1 / (1 + (-scores).exp())
    order = sorted(range(CHANNELS), key=lambda c: -a[:, c].sum().item())
    assert places.tolist() == sorted(order[:4])
    torch.testing.assert_close(entering, (x * a[:, :, None, None])[:, places])


def test_ranked_smooths_its_ranking_over_steps() -> None:
    sampler = make("ranked")
    assert isinstance(sampler, RankedSampler)
    importance = torch.full((CHANNELS,), 0.5)
    for step in range(3):
        x = images(step)
        score = torch.sigmoid(sampler.mlp(x.mean((2, 3))))
        importance = 0.9 * importance + 0.1 * score.mean(0)
        entering, places = sampler(x, generator())
        torch.testing.assert_close(sampler.importance, importance.detach())
        assert places.tolist() == sorted(importance.topk(4).indices.tolist())
        torch.testing.assert_close(entering, (x * score[:, :, None, None])[:, places])
    assert "importance" in sampler.state_dict()  # a resumed search ranks as it did


def test_ranked_does_not_learn_its_ranking_in_evaluation() -> None:
    sampler = make("ranked").eval()
    assert isinstance(sampler, RankedSampler)
    before = sampler.importance.clone()
    sampler(images(), generator())
    assert torch.equal(sampler.importance, before)


@pytest.mark.parametrize("name", ["attention", "ranked"])
def test_the_choice_passes_no_gradient_but_the_weights_do(name: str) -> None:
    sampler = make(name)
    x = images().requires_grad_()
    entering, places = sampler(x, generator())
    assert not places.requires_grad
    entering.sum().backward()
    assert all(w.grad is not None and bool(w.grad.any()) for w in sampler.parameters())
    last = sampler.mlp[2].bias.grad
    left = sorted(set(range(CHANNELS)) - set(places.tolist()))
    assert not last[left].any()  # nothing tells a channel that stayed out to enter
    assert last[places].all()


@pytest.mark.parametrize("name", ["attention", "ranked"])
@pytest.mark.parametrize("form", ATTENTIONS)
def test_forms_of_attention_are_as_published(name: str, form: str) -> None:
    sampler, x = make(name, attention=form), images()
    assert isinstance(sampler, ScoredSampler)
    if form == "eca":
        kernel = sampler.convolution.weight[0, 0]
        assert len(kernel) == 3  # |log2(16) / 2 + 1 / 2| = 2.5, the nearest odd number above 2
        padded = torch.nn.functional.pad(x.mean((2, 3)), (1, 1))
        plain = sum(kernel[k] * padded[:, k : k + CHANNELS] for k in range(3))
    else:
        plain = sampler.mlp(x.mean((2, 3)))
        if form == "cbam":
            plain = plain + sampler.mlp(x.flatten(2).max(-1).values)
    torch.testing.assert_close(sampler.scores(x), torch.as_tensor(plain).sigmoid())


@pytest.mark.parametrize(
    ("channels", "kernel"), [(4, 1), (8, 3), (16, 3), (64, 3), (128, 5), (512, 5), (1024, 5)]
)
def test_the_eca_kernel_grows_with_the_channels(channels: int, kernel: int) -> None:
    sampler = make("ranked", attention="eca", channels=channels)
    assert sampler.convolution.kernel_size == (kernel,)
    assert sampler.scores(torch.zeros(2, channels, 3, 3)).shape == (2, channels)


def test_each_sampler_has_its_own_form_of_scores() -> None:
    assert [make(name).attention for name in ("attention", "ranked")] == ["cbam", "se"]


@pytest.mark.parametrize("name", PARTIAL)
def test_choices_are_counted_in_training_until_they_are_forgotten(name: str) -> None:
    sampler, source, counts = make(name), generator(), torch.zeros(CHANNELS)
    assert not sampler.frequencies().any()
    for seed in range(6):
        counts[sampler(images(seed), source)[1]] += 1
    torch.testing.assert_close(sampler.frequencies(), counts / 6)
    sampler.eval()(images(9), source)
    torch.testing.assert_close(sampler.frequencies(), counts / 6)
    assert "chosen" not in sampler.state_dict()
    sampler.reset_counts()
    assert not sampler.frequencies().any()
