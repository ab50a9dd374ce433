import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn import InvertedResidual, squeeze_channels
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.mobile.mixed import BlockProbabilities, MixedBlock
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SAMPLERS, SamplerSettings

STARTS = pytest.mark.parametrize(
    "start_kernels",
    [(0, 3), *(pytest.param(alone, marks=pytest.mark.slow) for alone in ((0,), (3,)))],
)
SAMPLED = [(name, k) for name in SAMPLERS for k in (1, 2, 4) if name != "full" or k == 1]


def supernet(space: MobileSpace, name: str = "full", partial: int = 1) -> SuperNetwork:
    """In training mode, in float64, with no weight at a start value that would hide a mistake."""
    torch.manual_seed(0)
    net = SuperNetwork(space, SamplerSettings(name=name, partial=partial)).double().train()
    for weight in net.parameters():
        weight.data.normal_(std=0.5)
    for key, weight in net.named_parameters():
        if key.endswith("mlp.0.bias"):
            weight.data.fill_(1.0)  # no dead units
    return net


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)


def probabilities(space: MobileSpace, choice: Choice):
    return Alphas(space).double().one_hot(choice)


def choices(space: MobileSpace, *, all_kept: bool) -> Iterator[Choice]:
    source = random.Random(7)
    yield space.largest()
    if not all_kept:
        yield space.smallest()
    for _ in range(5):
        choice = space.random(source)
        yield replace(choice, keep=tuple(True for _ in choice.keep)) if all_kept else choice


@pytest.mark.parametrize(("name", "partial"), SAMPLED)
@pytest.mark.parametrize("training", [True, False])
@STARTS
def test_certainty_is_the_network_alone(
    tiny_space: MobileSpace, name: str, partial: int, training: bool, start_kernels: tuple[int, ...]
) -> None:
    x, space = images(), replace(tiny_space, start_kernels=start_kernels)
    # `random` draws once a block: a network without some blocks sees other draws
    for choice in choices(space, all_kept=name == "random"):
        outputs = []
        for dense in (True, False):
            net = supernet(space, name, partial).train(training)
            net.channels_generator.manual_seed(5)
            p = probabilities(space, choice)
            outputs.append(net(x, p) if dense else net.run(x, choice))
        torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


def copy_norm(target: nn.Module, source: nn.BatchNorm2d, span: slice) -> None:
    assert isinstance(target, nn.BatchNorm2d)
    target.weight.data, target.bias.data = source.weight.data[span], source.bias.data[span]


def copy_block(block: InvertedResidual, mixed: MixedBlock, into: int, kernel: int) -> None:
    """The slices that the documentation of the shared block promises, found independently."""
    hidden, out = block.depthwise[0].out_channels, block.project[0].out_channels
    start = mixed.slot.in_widths[-1] if hidden > into else 0
    span = slice(start, start + hidden)
    if not isinstance(block.start, nn.Identity):
        block.start[0].weight.data = mixed.start.data[:into]
        copy_norm(block.start[1], mixed.start_norm, slice(0, into))
    if hidden > into:
        block.expand[0].weight.data = mixed.expand.weight.data[:hidden, :into]
        copy_norm(block.expand[1], mixed.expand_norm, slice(0, hidden))
    weight = torch.zeros_like(mixed.depthwise[-1])
    for ring in mixed.depthwise[: (kernel - 1) // 2]:
        weight += functional.pad(ring, [(weight.shape[-1] - ring.shape[-1]) // 2] * 4)
    cut = (weight.shape[-1] - kernel) // 2
    block.depthwise[0].weight.data = weight.data[span, :, cut : cut + kernel, cut : cut + kernel]
    copy_norm(block.depthwise[1], mixed.depthwise_norm, span)
    if not isinstance(block.squeeze_excite, nn.Identity):
        few, gate = squeeze_channels(hidden), block.squeeze_excite
        gate.reduce.weight.data = mixed.reduce.weight.data[:few, span]
        gate.reduce.bias.data = mixed.reduce.bias.data[:few]
        gate.expand.weight.data = mixed.excite.weight.data[span, :few]
        gate.expand.bias.data = mixed.excite.bias.data[span]
    block.project[0].weight.data = mixed.project.weight.data[:out, span]
    copy_norm(block.project[1], mixed.project_norm, slice(0, out))


def sliced(net: SuperNetwork, choice: Choice) -> MobileNetwork:
    """The plain network of a choice, with the supernet's weights."""
    arch = net.space.arch(choice)
    module = build(arch).double().train()
    module.stem.load_state_dict(net.stem.state_dict())
    kept = [block for block, keep in zip(net.mixed_blocks(), choice.keep, strict=True) if keep]
    into = arch.stem.channels
    for block, mixed, stated in zip(module.blocks, kept, arch.blocks, strict=True):
        assert isinstance(block, InvertedResidual)
        copy_block(block, mixed, into, stated.kernel)
        into = stated.out
    module.head[0].weight.data = net.head[0].weight.data[:, :into]
    module.head[1].load_state_dict(net.head[1].state_dict())
    module.classifier[-1].load_state_dict(net.classifier.state_dict())
    return module


@STARTS
def test_certainty_is_the_built_network_with_slices_of_the_weights(
    tiny_space: MobileSpace, start_kernels: tuple[int, ...]
) -> None:
    x, space = images(), replace(tiny_space, start_kernels=start_kernels)
    for choice in choices(space, all_kept=False):
        net = supernet(space)
        plain = sliced(net, choice)(x)
        torch.testing.assert_close(net(x, probabilities(space, choice)), plain)
        torch.testing.assert_close(net.run(x, choice), plain)


def test_a_step_of_one_network_touches_only_its_own_statistics(tiny_space: MobileSpace) -> None:
    net, choice = supernet(tiny_space), tiny_space.smallest()
    net.run(images(), choice)
    blocks = list(net.mixed_blocks())
    left_out = [not keep for keep in choice.keep]
    for block, out in zip(blocks, left_out, strict=True):
        assert bool((block.depthwise_norm.running_mean == 0).all()) is out
    # width 8 of 16 and expansion 1: the input's own 8 hidden channels of all
    moved = blocks[2].depthwise_norm.running_mean != 0
    assert moved.nonzero().flatten().tolist() == list(range(8))


def certain_block(block: MixedBlock, **changes: Tensor) -> BlockProbabilities:
    """The largest candidate, but for the changes."""
    slot = block.slot

    def last(count: int) -> Tensor:
        return torch.eye(count, dtype=torch.float64)[-1]

    one = torch.ones((), dtype=torch.float64)
    certain = BlockProbabilities(
        in_width=last(len(slot.in_widths)),
        out_width=last(len(slot.out_widths)),
        kernel=last(len(block.kernels)),
        expansion=last(len(slot.expansions)),
        squeeze=one,
        start=one,
        keep=one,
    )
    return replace(certain, **changes)


def mixture(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def block_input(block: MixedBlock, side: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    width = block.slot.in_widths[-1]
    return torch.randn(3, width, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "partial"), [("full", 1), ("attention", 4)])
def test_keep_mixes_the_block_with_its_input(
    tiny_space: MobileSpace, name: str, partial: int
) -> None:
    block = list(supernet(tiny_space, name, partial).mixed_blocks())[4]
    x, generator = block_input(block), torch.Generator()
    there = block(x, certain_block(block), generator)
    half = block(x, certain_block(block, keep=mixture([0.3])[0]), generator)
    torch.testing.assert_close(half, 0.3 * there + 0.7 * x)
    gone = block(x, certain_block(block, keep=mixture([0.0])[0]), generator)
    torch.testing.assert_close(gone, x)


@pytest.mark.parametrize(("name", "partial"), [("full", 1), ("random", 2), ("ranked", 4)])
def test_an_uncertain_width_leaves_the_shortcut_whole(
    tiny_space: MobileSpace, name: str, partial: int
) -> None:
    net = supernet(tiny_space, name, partial)
    for index in (1, 3, 4, 6):
        block = list(net.mixed_blocks())[index]
        nn.init.zeros_(block.project_norm.weight)
        nn.init.zeros_(block.project_norm.bias)
        options = len(block.slot.out_widths)
        width = mixture([1 / options] * options)
        p = certain_block(block, in_width=width, out_width=width)
        x = block_input(block)
        torch.testing.assert_close(block(x, p, torch.Generator()), x)


def test_a_first_block_has_its_shortcut_as_likely_as_equal_widths(
    tiny_space: MobileSpace,
) -> None:
    block = next(iter(supernet(tiny_space).mixed_blocks()))
    nn.init.zeros_(block.project_norm.weight)
    nn.init.zeros_(block.project_norm.bias)
    x = block_input(block)  # 8 channels in, 8 or 16 out
    y = block(x, certain_block(block, out_width=mixture([0.3, 0.7])), torch.Generator())
    torch.testing.assert_close(y, functional.pad(0.3 * x, (0, 0, 0, 0, 0, 8)))


def hooked(module: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_the_kernel_mixture_is_the_sum_of_its_candidates_before_the_norm(
    tiny_space: MobileSpace,
) -> None:
    block = list(supernet(tiny_space).mixed_blocks())[3]
    seen, x = hooked(block.depthwise_norm), block_input(block)
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.2, 0.8]):
        block(x, certain_block(block, kernel=mixture(weights)), torch.Generator())
    torch.testing.assert_close(seen[2], 0.2 * seen[0] + 0.8 * seen[1])
    assert not torch.allclose(seen[0], seen[1])


def test_what_enters_the_expansion_is_mixed(tiny_space: MobileSpace) -> None:
    block = list(supernet(tiny_space).mixed_blocks())[3]
    seen, x = hooked(block.expand), block_input(block)
    for share in (0.0, 1.0, 0.8):
        block(x, certain_block(block, start=mixture([share])[0]), torch.Generator())
    assert torch.equal(seen[0], x) and not torch.allclose(seen[1], x)
    torch.testing.assert_close(seen[2], 0.2 * seen[0] + 0.8 * seen[1])


@pytest.mark.parametrize("decision", ["expansion", "squeeze"])
def test_a_projection_mixture_is_the_sum_of_its_candidates_before_the_norm(
    tiny_space: MobileSpace, decision: str
) -> None:
    block = list(supernet(tiny_space).mixed_blocks())[3]
    seen, x = hooked(block.project_norm), block_input(block)
    without = mixture([0.0])[0]  # with squeeze-excite, expansions share its inner layer
    for share in (0.0, 1.0, 0.8):
        p = (
            certain_block(block, expansion=mixture([1 - share, share]), squeeze=without)
            if decision == "expansion"
            else certain_block(block, squeeze=mixture([share])[0])
        )
        block(x, p, torch.Generator())
    torch.testing.assert_close(seen[2], 0.2 * seen[0] + 0.8 * seen[1])
    assert not torch.allclose(seen[0], seen[1])


@pytest.mark.parametrize(("name", "partial"), SAMPLED)
def test_gradients_reach_every_alpha_and_every_weight(
    tiny_space: MobileSpace, name: str, partial: int
) -> None:
    net, alphas = supernet(tiny_space, name, partial), Alphas(tiny_space).double()
    net(images(16), alphas.soft(1.0)).square().sum().backward()
    for key, logits in alphas.logits.items():
        legal = getattr(alphas, f"legal_{key}") & (
            getattr(alphas, f"legal_{key}").sum(-1, keepdim=True) > 1
        )
        assert logits.grad is not None
        assert bool((logits.grad[legal] != 0).all()), key
        assert not logits.grad[~legal].any()
    dead = [n for n, w in net.named_parameters() if w.grad is None or not w.grad.any()]
    assert dead == []


def test_frozen_weights_get_no_gradient_and_thaw(tiny_space: MobileSpace) -> None:
    net, alphas = supernet(tiny_space, "attention", 4), Alphas(tiny_space).double()
    net.stem[1].bias.requires_grad_(False)  # what was frozen before stays so
    with net.frozen():
        assert not any(weight.requires_grad for weight in net.parameters())
        net(images(), alphas.soft(1.0)).sum().backward()
    assert all(weight.grad is None for weight in net.parameters())
    assert all(logits.grad is not None for logits in alphas.parameters())
    thawed = [weight.requires_grad for weight in net.parameters()]
    assert thawed.count(False) == 1
    with pytest.raises(RuntimeError, match="interrupted"), net.frozen():
        raise RuntimeError("interrupted")
    assert [weight.requires_grad for weight in net.parameters()] == thawed
