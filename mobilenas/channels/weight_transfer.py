"""Weight transfer: changes the channel sizes of a trained model.

`changed` does all of it. With an optimizer, use the steps:

    change = choose(model, graph, sizes)
    other = apply(model, change)
    optimizer = follow(optimizer, model, other, change)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mobilenas.channel_graph import Dimension, Graph, Member, Resizing, resized
from mobilenas.channels.settings import WEIGHT_TRANSFERS
from mobilenas.channels.shrinking import Reconstruction, Shrinking, norms_behind
from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import State
from mobilenas.core.settings import check_choice


def changed(
    model: nn.Module,
    graph: Graph,
    sizes: Mapping[str, int],
    *,
    method: str = "svd",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Return a copy of `model` with other sizes and transferred weights.

    `graph` is that of `model`; the result's is `graph.at(sizes)`. Growing a group does not change
    the model's outputs, unless `inexact` names the group. `generator` draws new weights.
    MobileNASError for illegal sizes.
    """
    return apply(model, choose(model, graph, sizes, method=method), generator=generator)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a model's channels."""

    resizing: Resizing
    """New sizes and kept channels."""
    reconstructions: Mapping[str, Reconstruction]
    """By group, how kept channels reconstruct dropped ones."""
    fresh: bool
    """Whether all weights are initialized anew."""


@torch.no_grad()
def choose(
    model: nn.Module, graph: Graph, sizes: Mapping[str, int], *, method: str = "svd"
) -> Change:
    """Choose the kept channels: all of a growing group, selected ones of a shrinking group."""
    check_choice("method", method, WEIGHT_TRANSFERS)
    full = graph.checked(sizes)
    keep: dict[str, Tensor] = {}
    reconstructions: dict[str, Reconstruction] = {}
    if method == "fresh":
        keep = {name: torch.full((size,), -1) for name, size in full.items()}
        return Change(resizing=Resizing(graph, sizes, keep=keep), reconstructions={}, fresh=True)
    shrinking = Shrinking(model, graph)
    for group in graph.groups:
        # after a split of shuffled channels, entries do not correspond to channels
        if full[group.name] >= group.size or not all(member.aligned for member in group.members):
            continue
        if method == "magnitude":
            kept = shrinking.by_magnitude(group, full[group.name])
        else:
            kept, taken_over = shrinking.by_span(group, full[group.name])
            if taken_over is not None:
                reconstructions[group.name] = taken_over
        keep[group.name] = torch.from_numpy(kept)
    return Change(
        resizing=Resizing(graph, sizes, keep=keep), reconstructions=reconstructions, fresh=False
    )


@torch.no_grad()
def apply(
    model: nn.Module, change: Change, *, generator: torch.Generator | None = None
) -> nn.Module:
    """Return a copy of the model with the change applied.

    New channels get weights with the statistics of old ones, but weights of 0 to old outputs.
    """
    resizing = change.resizing
    result = resized(
        model, resizing.graph, resizing.sizes, keep=resizing.channels, generator=generator
    )
    if change.fresh:
        _initialize(result, generator)
    else:
        _silence_new_inputs(model, result, resizing)
        _absorb(model, result, change)
    return result


def follow(
    optimizer: torch.optim.Optimizer, model: nn.Module, new_model: nn.Module, change: Change
) -> torch.optim.Optimizer:
    """Return an optimizer of the same class and options for the parameters of `new_model`.

    State with a parameter's shape, such as momentum, is resized like the parameter, with zeros for
    new entries; other state is copied. MobileNASError for a parameter that is not the model's.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[State] = []
    states: dict[nn.Parameter, State] = {}
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
                key: _moved(value, name, parameter, change.resizing)
                for key, value in optimizer.state.get(parameter, {}).items()
            }
        groups.append({**group, "params": parameters})
    follower = type(optimizer)(groups)  # type: ignore[call-arg]  # every group has all options
    follower.defaults = dict(optimizer.defaults)
    follower.state.update({parameter: state for parameter, state in states.items() if state})
    return follower


def _moved(value: object, name: str, parameter: Tensor, resizing: Resizing) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        return value.clone()
    moved, missing = resizing.move(name, value)
    return moved.masked_fill(missing, 0)


def inexact(model: nn.Module, graph: Graph) -> dict[str, str]:
    """Return the groups whose growth changes the model's outputs, with the reason.

    Operations on channels outside of layers, such as a mean over them, are not considered.
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
    """Set the weights from new inputs to old outputs to 0."""
    for dimension in resizing.graph.dimensions:
        if dimension.kind != "in" or not dimension.axes:
            continue
        ((name, _),) = dimension.axes
        _, missing = resizing.move(name, model.get_parameter(name))
        new = _outputs(dimension, resizing) < 0
        silent = missing & ~new.view(-1, *(1,) * (missing.dim() - 1)).to(missing.device)
        result.get_parameter(name).masked_fill_(silent, 0)


def _outputs(dimension: Dimension, resizing: Resizing) -> Tensor:
    """Return [outputs] of an input's layer: old outputs they come from, -1 for new ones."""
    return resizing.entries(resizing.graph.dimension(dimension.module, "out"))


def _absorb(model: nn.Module, result: nn.Module, change: Change) -> None:
    """Let the layers that read dropped channels reconstruct them from kept ones."""
    resizing = change.resizing
    old_norms, norms = (norms_behind(net, resizing.graph) for net in (model, result))
    new_groups = resizing.graph.at(resizing.sizes).groups
    for group, new_group in zip(resizing.graph.groups, new_groups, strict=True):
        if group.name not in change.reconstructions:
            continue
        reconstruction = change.reconstructions[group.name]
        for old, new in zip(group.members, new_group.members, strict=True):
            # not in grouped convolutions, where most kept channels are in other groups
            if old.kind == "in" and old.dimension.axes and old.dimension.blocks == 1:
                rows = _outputs(old.dimension, resizing)
                weight = _columns(model, old)
                share = _share(weight.sum(2), reconstruction, old_norms.get(old.module))
                weight = weight[rows.clamp(min=0)] * (rows >= 0)[:, None, None].to(weight.device)
                weight = weight[:, torch.from_numpy(reconstruction.gone)]  # [outputs, D, values]
                mixing = torch.from_numpy(reconstruction.weights).to(weight)
                target = result.get_parameter(f"{old.module}.weight")
                columns = target[:, new.offset : new.offset + new.size]
                columns.add_(torch.einsum("odv,dk->okv", weight, mixing).reshape(columns.shape))
                amount = weight.sum(2) @ torch.from_numpy(reconstruction.constant).to(weight)
                _shift(result.get_submodule(old.module), norms.get(old.module), share * amount)


def _columns(model: nn.Module, member: Member) -> Tensor:
    """Return [outputs, channels, values], a layer's weights that read a group."""
    weight: Tensor = model.get_parameter(f"{member.module}.weight")
    weight = weight[:, member.offset : member.offset + member.size]
    return weight.reshape(len(weight), member.size // member.repeat, -1)


def _share(weight: Tensor, reconstruction: Reconstruction, norm: _BatchNorm | None) -> float:
    """Return the share of the expected means that reaches a layer with weight [outputs, C].

    It is read from the running mean of the norm after it: less after squeeze-excite's gates, and
    almost nothing without a ReLU.
    """
    if norm is None or norm.running_mean is None:
        return 1.0
    expected = weight @ torch.from_numpy(reconstruction.mean).to(weight)
    return float(expected @ norm.running_mean / expected.square().sum().clamp(min=1e-12))


def _shift(layer: nn.Module, norm: _BatchNorm | None, amount: Tensor) -> None:
    """Add `amount` [outputs] to a layer's outputs, by its norm or bias if it has one."""
    if norm is not None and norm.running_mean is not None:
        norm.running_mean -= amount
    elif isinstance(layer.bias, Tensor):
        layer.bias += amount


def _initialize(model: nn.Module, generator: torch.Generator | None) -> None:
    """Initialize all layers, as this project's networks are."""
    for module in model.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()  # norms and PReLU, without randomness
