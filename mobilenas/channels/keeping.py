"""Other channel sizes with the trained weights kept: what shrinks, what grows, what follows.

`changed` does all of it. Whoever has an optimizer, too, takes its two steps one by one:

    resizing = choose(model, graph, sizes)
    smaller = apply(model, resizing)
    optimizer = follow(optimizer, model, smaller, resizing)
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mobilenas.dependencies import Graph, Group, Resizing, resized
from mobilenas.errors import MobileNASError

Array = NDArray[np.float64]
Method = Literal["svd", "magnitude", "fresh"]

METHODS: tuple[Method, ...] = ("svd", "magnitude", "fresh")
"""What is kept: channels that span the weights best, the largest ones, nothing."""


def changed(
    model: nn.Module,
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    method: Method = "svd",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return a copy of `model` with other sizes, its weights kept; the model stays as it is.

    `graph` is the model's; the result's is `graph.at(sizes)`. A group that grows does not change
    what the model computes, unless `inexact` names it. `generator` draws new weights.
    MobileNASError for sizes that are not legal.
    """
    resizing = choose(model, graph, sizes, method=method)
    return apply(model, resizing, fresh=method == "fresh", generator=generator)


@torch.no_grad()
def choose(
    model: nn.Module, graph: Graph, sizes: Mapping[str, int], *, method: Method = "svd"
) -> Resizing:
    """Say which channels stay: all of a group that grows, the chosen ones of one that shrinks."""
    if method not in METHODS:
        raise MobileNASError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    full = graph.checked(sizes)
    if method == "fresh":
        return Resizing(
            graph, sizes, keep={name: torch.full((size,), -1) for name, size in full.items()}
        )
    scales = _norm_scales(model, graph)
    keep = {}
    for group in graph.groups:
        # behind a split of shuffled channels there is no telling one from another
        ordered = all(member.aligned for member in group.members)
        if full[group.name] < group.size and ordered:
            keep[group.name] = _kept(_gram(model, group, scales), group, full[group.name], method)
    return Resizing(graph, sizes, keep=keep)


@torch.no_grad()
def apply(
    model: nn.Module,
    resizing: Resizing,
    *,
    fresh: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return the model in its new sizes; `fresh` initializes all of it anew.

    New channels get values like the old ones', but old outputs take nothing from them at first.
    """
    result = resized(
        model, resizing.graph, resizing.sizes, keep=resizing.channels, generator=generator
    )
    if fresh:
        _initialize(result, generator)
    else:
        _silence_new_inputs(model, result, resizing)
    return result


def follow(
    optimizer: torch.optim.Optimizer, model: nn.Module, new_model: nn.Module, resizing: Resizing
) -> torch.optim.Optimizer:
    """Return an optimizer of the same class and options for the parameters of `new_model`.

    State of a parameter's shape, such as momentum, moves like the parameter and is zero for what
    is new; other state is copied. MobileNASError for a parameter that is not the model's.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    states: dict[nn.Parameter, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        parameters = []
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise MobileNASError(
                    f"the optimizer has a parameter {list(parameter.shape)} that is not the model's"
                )
            name = names[id(parameter)]
            parameters.append(new_model.get_parameter(name))
            states[parameters[-1]] = {
                key: _moved(value, name, parameter, resizing)
                for key, value in optimizer.state.get(parameter, {}).items()
            }
        groups.append({**group, "params": parameters})
    follower = type(optimizer)(groups)  # type: ignore[call-arg]  # every group has all options
    follower.defaults = dict(optimizer.defaults)
    follower.state.update({parameter: state for parameter, state in states.items() if state})
    return follower


def _moved(value: Any, name: str, parameter: Tensor, resizing: Resizing) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    moved, missing = resizing.move(name, value)
    return moved.masked_fill(missing, 0)


def inexact(model: nn.Module, graph: Graph) -> dict[str, str]:
    """Return the groups whose growth changes what the model computes, each with the reason.

    What the code does to channels outside of layers, such as a mean over them, is not seen.
    """
    modules = dict(model.named_modules())
    reasons = {}
    for group in graph.groups:
        if group.fixed is not None:
            continue
        for member in group.members:
            kind = modules[member.module]
            if not member.aligned:
                reasons[group.name] = f"{member.module} is behind a split of shuffled channels"
            elif isinstance(kind, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm):
                reasons[group.name] = f"{member.module} is a norm over channels"
            else:
                continue
            break
    return reasons


def _silence_new_inputs(model: nn.Module, result: nn.Module, resizing: Resizing) -> None:
    """Give the weights from new inputs to old outputs the value 0."""
    outputs = {
        item.module: item for item in resizing.graph.dimensions if item.kind == "out" and item.axes
    }
    for dimension in resizing.graph.dimensions:
        if dimension.kind != "in" or not dimension.axes:
            continue
        ((name, _),) = dimension.axes
        _, missing = resizing.move(name, model.get_parameter(name))
        new = resizing.entries(outputs[dimension.module]) < 0
        silent = missing & ~new.view(-1, *(1,) * (missing.dim() - 1)).to(missing.device)
        result.get_parameter(name).masked_fill_(silent, 0)


def _initialize(model: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all layers anew, as this project's networks start."""
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()  # norms and PReLU: nothing is drawn


def _norm_scales(model: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """By layer, what the batch norm right behind it multiplies its outputs with."""
    modules = dict(model.named_modules())
    scales = {}
    for layer, norm in pairwise(graph.dimensions):
        follower = modules[norm.module]
        if (
            layer.kind == "out"
            and norm.kind == "norm"
            and norm.parts == layer.parts
            and isinstance(follower, _BatchNorm)
            and follower.running_var is not None
        ):
            scale = (follower.running_var + follower.eps).rsqrt()
            scales[layer.module] = scale if follower.weight is None else scale * follower.weight
    return scales


def _gram(model: nn.Module, group: Group, scales: Mapping[str, Tensor]) -> Array:
    """Return [C, C], products of the weights that make the channels, all producers' added."""
    depthwise = {m.module for m in group.members if m.kind == "in" and not m.dimension.axes}
    total = np.zeros((group.size, group.size))
    for member in group.members:
        if member.kind != "out" or member.module in depthwise:
            continue
        weight = model.get_parameter(f"{member.module}.weight").flatten(1)
        if member.module in scales:
            weight = weight * scales[member.module][:, None]
        rows = weight[member.offset : member.offset + member.size].reshape(group.size, -1)
        total += (rows @ rows.T).double().cpu().numpy()
    return total


def _kept(gram: Array, group: Group, size: int, method: Method) -> Tensor:
    """Return [size], the channels of a group that stay, in order and within their blocks."""
    # as `leading` has it: a block of a grouped convolution keeps its share of the channels
    old, new = group.size // group.divisor, size // group.divisor
    chosen = []
    for start in range(0, group.size, old):
        own = gram[start : start + old, start : start + old]
        best = _spanning(own, new) if method == "svd" else np.argsort(-np.diag(own))[:new]
        chosen.append(start + np.sort(best))
    return torch.from_numpy(np.concatenate(chosen))


def _spanning(gram: Array, size: int) -> NDArray[np.int64]:
    """Choose the rows of a matrix, given its Gram matrix [C, C], that span its leading subspace.

    The matrix is cut to its `size` largest singular values, and QR with pivoting takes the row that
    is farthest from all before it, again and again (an interpolative decomposition).
    """
    squares, left = np.linalg.eigh(gram)
    leading = left[:, -size:] * np.sqrt(squares[-size:].clip(min=0.0))
    _, order = qr(leading.T, mode="r", pivoting=True)
    return np.asarray(order[:size], dtype=np.int64)
