"""The second-order step of DARTS (Liu et al. 2019): the gradient through a step of the weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mobilenas.nn.parallel import add_up

_STEP_LENGTH = 0.01
"""Euclidean length of the finite difference in all weights (Liu et al. 2019, below equation 8). The
difference is exact to 1e-4 with smooth activations. With ReLU and max pooling it crosses kinks,
whose noise exceeds the second-order part itself, and decreases as the length grows."""


class _Step(NamedTuple):
    """A step that the optimizer would take, for one weight."""

    weight: Tensor
    moved: Tensor
    """The weight after the step."""
    rate: float
    """xi: factor of the loss's gradient in the step."""


def unrolled_gradients(
    net: nn.Module,
    requested: Sequence[nn.Parameter],
    optimizer: torch.optim.SGD,
    train_loss: Callable[[], Tensor],
    val_loss: Callable[[], Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Return gradients of the validation loss after a step of the weights, and that loss.

    The gradients are for `requested`, the alphas:
    d_alpha L_val(w', alpha) - xi d_alpha d_w L_train(w, alpha) . d_w' L_val(w', alpha)
    with w' the weights after the step that `optimizer` would take (Liu et al. 2019, equation 7).
    The second product is computed as a finite difference of gradients (equation 8).

    The losses are called four times in total, and must be the same functions of weights and alphas
    each time: of one batch each, random only by generators that are attributes of modules of `net`.
    `net` must not be frozen. Weights, buffers, generators, `.grad` and the optimizer end unchanged.
    """
    steps = _virtual_steps(net, optimizer, train_loss)
    weights = [step.weight for step in steps]
    with _restoring(weights):
        _assign(weights, [step.moved for step in steps])
        loss, found = _differentiate(net, val_loss, [*requested, *weights])
    gradients = _with_zeros(found, [*requested, *weights])
    direct, through = gradients[: len(requested)], gradients[len(requested) :]
    # xi differs between groups and with momentum, so it goes into the direction
    directions = [step.rate * gradient for step, gradient in zip(steps, through, strict=True)]
    mixed = _mixed_product(net, train_loss, weights, directions, requested)
    return [first - second for first, second in zip(direct, mixed, strict=True)], loss


def _mixed_product(
    net: nn.Module,
    train_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    directions: Sequence[Tensor],
    requested: Sequence[Tensor],
) -> list[Tensor]:
    """Return d_alpha d_w L_train . directions as a central difference along `directions`."""
    norm = torch.stack([each.norm() for each in directions]).norm().item() if directions else 0.0
    if not norm:
        return [torch.zeros_like(alpha) for alpha in requested]
    epsilon = _STEP_LENGTH / norm
    ends = []
    for sign in (1, -1):
        with _restoring(weights):
            pairs = zip(weights, directions, strict=True)
            _assign(weights, [w.detach() + sign * epsilon * direction for w, direction in pairs])
            ends.append(_with_zeros(_differentiate(net, train_loss, requested)[1], requested))
    return [(up - down) / (2 * epsilon) for up, down in zip(*ends, strict=True)]


def _virtual_steps(
    net: nn.Module, optimizer: torch.optim.SGD, train_loss: Callable[[], Tensor]
) -> list[_Step]:
    """Return the steps that torch.optim.SGD would take, for weights that have a gradient."""
    pairs = [(w, group) for group in optimizer.param_groups for w in group["params"]]
    pairs = [(weight, group) for weight, group in pairs if weight.requires_grad]
    weights = [weight for weight, _ in pairs]
    _, gradients = _differentiate(net, train_loss, weights)
    steps = []
    for (weight, group), gradient in zip(pairs, gradients, strict=True):
        if gradient is None:
            continue
        momentum, fresh = group["momentum"], 1.0
        step = gradient + group["weight_decay"] * weight.detach()
        if momentum:
            buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
            if buffer is None:
                buffer = step
            else:
                fresh = 1 - group["dampening"]
                buffer = momentum * buffer + fresh * step
            if group["nesterov"]:
                step, fresh = step + momentum * buffer, 1 + momentum * fresh
            else:
                step = buffer
        rate = group["lr"]
        steps.append(_Step(weight, weight.detach() - rate * step, rate * fresh))
    return steps


def _differentiate(
    net: nn.Module, loss: Callable[[], Tensor], inputs: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the loss and its gradients; buffers and generators end unchanged."""
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    generators = [
        (held, held.get_state())
        for module in net.modules()
        for held in vars(module).values()
        if isinstance(held, torch.Generator)
    ]
    try:
        value = loss()
        found = torch.autograd.grad(value, inputs, allow_unused=True)
        add_up([*(gradient for gradient in found if gradient is not None), value := value.detach()])
        return value, found
    finally:
        for name, buffer in net.named_buffers():
            buffer.data.copy_(buffers[name])
        for generator, state in generators:
            generator.set_state(state)


@contextmanager
def _restoring(weights: Sequence[Tensor]) -> Iterator[None]:
    kept = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        _assign(weights, kept)


@torch.no_grad()
def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _with_zeros(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients, with zeros for inputs that the loss does not depend on."""
    pairs = zip(gradients, inputs, strict=True)
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in pairs]
