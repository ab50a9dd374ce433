"""Quantization-aware training: fine-tuning with INT8 rounding simulated."""

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilenas.core.errors import DivergedError, MobileNASError
from mobilenas.data import ImageData, batches
from mobilenas.onnx.export import quiet
from mobilenas.train import Recipe

if TYPE_CHECKING:
    from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

RATE_SHARE = 0.02
"""Share of the recipe's learning rate, since the weights are already trained."""

_NEEDED = "--qat-epochs needs torchao: pip install 'mobilenas[qat]'"
# they warn about kernels that torchao lacks here, and deprecated names
_CHATTY_LOGGERS = ("torchao", "torch.utils._pytree")
_WEIGHTED = ("conv2d", "linear")
_FUSED = ("hardsigmoid", "hardtanh", "relu")  # with the layer before: no rounding in between
_JOINED = ("add", "adaptive_avg_pool2d", "avg_pool2d", "cat", "max_pool2d", "mean", "mul")


def check_installed() -> None:
    """Raise MobileNASError, which names the extra, if its package is missing."""
    if find_spec("torchao") is None:
        raise MobileNASError(_NEEDED)


def fine_tune(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    epochs: int,
    per_channel: bool,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Return a copy of a network with folded norms, fine-tuned with simulated rounding.

    torchao puts fake quantization where `quantize_static_qdq` quantizes: int8 weights per channel
    or per tensor, uint8 activations. Uses training images only, with the recipe's batch size,
    augmentation and label smoothing, and `RATE_SHARE` of its rate, with cosine decay and no
    warm-up. `on_epoch` gets the number and mean loss of each epoch. MobileNASError names a missing
    extra; DivergedError if the loss is not finite.
    """
    folded = fold_norms(module).requires_grad_()
    example = torch.zeros(2, data.channels, data.image_size, data.image_size)
    tuned = _simulated(folded, example, per_channel=per_channel)
    weights = list(tuned.parameters())
    optimizer = torch.optim.SGD(
        weights,
        lr=recipe.learning_rate * RATE_SHARE,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    batch_size = min(recipe.batch_size, len(data.train))
    steps = epochs * (len(data.train) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        losses = []
        given = batches(
            data.train,
            data,
            batch_size=batch_size,
            seed=(seed, epoch),
            augmentation=recipe.augmentation(),
            drop_last=True,
        )
        for x, y in given:
            optimizer.zero_grad()
            loss = F.cross_entropy(tuned(x), y, label_smoothing=recipe.label_smoothing)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)
            if not torch.isfinite(loss + norm):
                raise DivergedError(f"QAT epoch {epoch + 1}: the loss is {loss.item():g}")
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        on_epoch(epoch + 1, sum(losses) / len(losses))
    trained = tuned.state_dict()
    folded.load_state_dict({name: trained[name] for name in folded.state_dict()})
    return folded


def fold_norms(module: nn.Module) -> nn.Module:
    """Copy a network as onnxruntime quantizes it: norms folded, hard-swish decomposed."""
    folded = copy.deepcopy(module).eval()
    for chain in [part for part in folded.modules() if isinstance(part, nn.Sequential)]:
        for place, layer in enumerate(chain):
            before = chain[place - 1] if place else layer
            if isinstance(before, nn.Conv2d) and isinstance(layer, nn.BatchNorm2d):
                chain[place - 1] = fuse_conv_bn_eval(before, layer)
                chain[place] = nn.Identity()
            elif isinstance(layer, nn.Hardswish):
                chain[place] = _HardSwish()
    return folded


class _HardSwish(nn.Module):
    """x * hardsigmoid(x), with the gate rounded separately."""

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape -> same shape."""
        return x * F.hardsigmoid(x)


def _simulated(module: nn.Module, example: Tensor, *, per_channel: bool) -> nn.Module:
    """Trace a network on `example` [2, C, S, S], with fake quantization where the file rounds.

    Rounds like onnxruntime: weights to -127..127, symmetric, in their current range, and
    activations to 0..255 in a running range.
    """
    with quiet(_CHATTY_LOGGERS, DeprecationWarning):
        try:
            from torchao.quantization.pt2e import (
                FakeQuantize,
                MovingAverageMinMaxObserver,
                MovingAveragePerChannelMinMaxObserver,
            )
            from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
            from torchao.quantization.pt2e.quantizer import QuantizationSpec
        except ImportError as error:
            raise MobileNASError(_NEEDED) from error
        activation = QuantizationSpec(
            dtype=torch.uint8,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=FakeQuantize.with_args(observer=MovingAverageMinMaxObserver),
        )
        observer = (
            MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
        )
        weight = QuantizationSpec(
            dtype=torch.int8,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
            ch_axis=0 if per_channel else None,
            observer_or_fake_quant_ctr=FakeQuantize.with_args(
                observer=observer, averaging_constant=1.0
            ),
        )
        shapes = ({0: torch.export.Dim("batch", min=2)},)
        traced = torch.export.export(module, (example,), dynamic_shapes=shapes).module()
        simulated: nn.Module = prepare_qat_pt2e(traced, _quantizer(activation, weight))
        return simulated


def _quantizer(activation: "QuantizationSpec", weight: "QuantizationSpec") -> "Quantizer":
    """Return a quantizer that tells torchao where `quantize_static_qdq` rounds."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer

    class StaticForm(Quantizer):  # type: ignore[misc]  # torchao ships no types
        """Rounds inputs and outputs of layers, sums, products, means and pools."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                kind = _kind(node)
                if kind not in (*_WEIGHTED, *_FUSED, *_JOINED):
                    continue
                rounded = {} if kind in _FUSED else dict.fromkeys(node.all_input_nodes, activation)
                if kind in _WEIGHTED:
                    rounded = {node.args[0]: activation, node.args[1]: weight}
                fused = kind in _WEIGHTED and [_kind(user) in _FUSED for user in node.users] == [
                    True
                ]
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=rounded,
                    output_qspec=None if fused else activation,
                    _annotated=True,
                )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            """Accept every annotation."""

    return StaticForm()


def _kind(node: torch.fx.Node) -> str:
    """Return a node's operator, such as `add` for aten.add_.Tensor; empty for other nodes."""
    name = str(node.target) if node.op == "call_function" else ""
    return name.removeprefix("aten.").partition(".")[0].removesuffix("_")
