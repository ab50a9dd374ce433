"""Checks of a user's model before anything is trained; they take seconds.

A search ends with an ONNX file that classifies one image at a time. To find problems now and not
hours later, a copy of the model is trained for one step on random images, run on a batch and on
single images, and exported.
"""

import copy
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mobilenas.channel_graph.models import TORCHVISION
from mobilenas.channel_graph.tracing import last_line
from mobilenas.core.errors import FileError, InternalError, MobileNASError, first_line
from mobilenas.core.settings import counted
from mobilenas.nn.weights import lay_out
from mobilenas.onnx.export import check_parity, export_onnx
from mobilenas.onnx.recount import OnnxCount, count_fvcore, count_onnx
from mobilenas.spaces.channels.space import Base

IMAGES = 5
"""Batch size: neither 1 nor 2, which is used in tracing."""
_TOLERANCE = 1e-3  # relative to the largest logit; float32 kernels differ by 1e-5
_NOISE = 0.1
_SHAPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""ONNX operators that do not change values."""


def check_base(base: Base, given: nn.Module | None) -> None:
    """Raise for a model that cannot be trained, exported or counted.

    `given` is the model with its weights. MobileNASError says what the model must do;
    InternalError if two counts of its costs differ.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = base.module()
        file = None
        if base.name is not None and not base.name.startswith(TORCHVISION):
            images = torch.randn(IMAGES, base.in_channels, base.image_size, base.image_size)
            trial = _Trial(base, images.to(memory_format=base.memory_format))
            file = trial.check(model, given)
    _check_counts(base, model, file)


class _Trial:
    """The checks of one model."""

    def __init__(self, base: Base, images: Tensor) -> None:
        self.name, self.classes, self.images = str(base), base.classes, images
        self.memory_format = base.memory_format

    def check(self, model: nn.Module, given: nn.Module | None) -> OnnxCount:
        """Run all checks on a copy; return the count of its ONNX file."""
        for name, weight in model.named_parameters():
            if weight.is_meta or weight.dtype != torch.float32:
                found = "without data" if weight.is_meta else str(weight.dtype)[len("torch.") :]
                raise MobileNASError(f"{self.name}: {name} is {found}; it must be float32")
        for name, module in model.named_modules() if given is None else ():
            if isinstance(module, _BatchNorm) and module.momentum == 0:
                raise MobileNASError(
                    f"{self.name}: {name} has momentum 0, so its running statistics stay as they "
                    "are; give another, such as 0.1, or --weights"
                )
        twin = copy.deepcopy(model)
        _make_generic(twin)
        lay_out(twin, self.memory_format)  # as in training
        self._train(twin)
        twin.eval()
        with torch.no_grad():
            self._evaluate(twin)
            if given is not None:
                logits = self._logits(given.eval(), self.images, "with the given weights")
                self._check_finite(logits, "with the given weights")
        lay_out(twin, torch.contiguous_format)  # as weights come from a file
        return self._export(twin)

    def _train(self, twin: nn.Module) -> None:
        """Run one forward and backward pass; norms get running statistics of the images."""
        mode = "in training mode"
        for module in twin.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = None  # a mean over all batches, here one
        logits = self._logits(twin.train(), self.images, mode)
        self._check_finite(logits, mode)
        if not logits.requires_grad:
            raise MobileNASError(
                f"{self.name} has nothing to train: all parameters are frozen, or it runs without "
                "gradients"
            )
        with self._running(mode):
            F.cross_entropy(logits, torch.arange(len(logits)) % self.classes).backward()
        for name, weight in twin.named_parameters():
            if weight.grad is not None and not bool(weight.grad.isfinite().all()):
                raise MobileNASError(f"{self.name}: the gradient of {name} is not finite {mode}")
        twin.zero_grad()

    def _evaluate(self, twin: nn.Module) -> None:
        mode = "in evaluation mode"
        single = torch.cat([self._logits(twin, image[None], mode) for image in self.images])
        self._check_finite(single, mode)
        batch, again = (self._logits(twin, self.images, mode) for _ in range(2))
        if not _same(batch, again):
            raise MobileNASError(
                f"{self.name} gives other logits when it sees the same images again {mode}: it "
                "draws at random or changes itself (dropout that is always on?)"
            )
        if not _same(batch, single):
            raise MobileNASError(
                f"{self.name} gives an image other logits when others are in its batch {mode}, "
                "and a phone sees one at a time: leave out what is computed over the batch (norms "
                "without running statistics, a mean over dimension 0)"
            )
        if bool((batch >= 0).all()) and torch.allclose(batch.sum(1), torch.ones(len(batch))):
            raise MobileNASError(
                f"{self.name} gives probabilities; it must give logits: leave out the softmax"
            )

    def _export(self, twin: nn.Module) -> OnnxCount:
        _, channels, side, _ = self.images.shape
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with self._running("on its way to ONNX"):
                    export_onnx(twin, path, image_size=side, channels=channels, metadata={})
                check_parity(twin, path, [self.images])
                last, file = _last_operator(path), count_onnx(path)
            except FileError as error:
                message = str(error).replace(str(path), "its ONNX file")
                raise MobileNASError(f"{self.name}: {message}") from error
        if last in ("Sigmoid", "HardSigmoid"):
            raise MobileNASError(
                f"{self.name} gives numbers between 0 and 1, each a probability; it must give "
                "logits: leave out the sigmoid"
            )
        return file

    def _logits(self, model: nn.Module, images: Tensor, mode: str) -> Tensor:
        """Run the model; raise unless it returns [N, classes] and does not change the images."""
        taken = images.clone()
        with self._running(mode):
            logits: object = model(taken)
        if not isinstance(logits, Tensor):
            kind = type(logits).__name__
            raise MobileNASError(f"{self.name} gives a {kind} {mode}; it must give logits")
        if logits.shape != (len(images), self.classes) or not logits.is_floating_point():
            number = str(logits.dtype).removeprefix("torch.")
            raise MobileNASError(
                f"{self.name} gives {number} {list(logits.shape)} for "
                f"{counted(len(images), 'image')} {mode}; it must give logits "
                f"[{len(images)}, {self.classes}]"
            )
        if not torch.equal(taken, images):
            raise MobileNASError(
                f"{self.name} changes the images that it is given {mode}: the first operation on "
                "them must not be in place"
            )
        return logits

    def _check_finite(self, logits: Tensor, mode: str) -> None:
        if not bool(logits.isfinite().all()):
            raise MobileNASError(f"{self.name} gives logits that are not finite {mode}")

    @contextmanager
    def _running(self, mode: str) -> Iterator[None]:
        """Turn exceptions of the user's code into a one-line error."""
        try:
            yield
        except FileError:
            raise
        except Exception as error:  # the user's code
            file, line = last_line(error.__traceback__)
            place = "" if file == __file__ else f", at {file}:{line}"
            raise MobileNASError(
                f"{self.name} fails {mode}: {first_line(error).rstrip('.')}{place}"
            ) from error


@torch.no_grad()
def _make_generic(model: nn.Module) -> None:
    """Add noise to the weights: a layer initialized to zero would hide problems before it."""
    for weight in model.parameters():
        fan_in = weight[0].numel() if weight.dim() else 1
        weight.add_(torch.randn_like(weight), alpha=_NOISE / math.sqrt(max(1, fan_in)))


def _last_operator(path: Path) -> str:
    """Return the last operator of an ONNX file that changes values; empty if there is none."""
    graph = onnx.load(str(path)).graph
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _SHAPING:
        node = makers.get(node.input[0])
    return "" if node is None else node.op_type


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())


def _check_counts(base: Base, model: nn.Module, file: OnnxCount | None) -> None:
    """Compare the groups' count of FLOPs and params with the independent ones."""
    graph = base.graph
    flops = sum(count_fvcore(model, base.image_size, base.in_channels).values())
    params = sum(weight.numel() for weight in model.parameters())
    ours = graph.flops({}), graph.params({})
    if ours != (flops, params):
        raise InternalError(
            f"two counts of {base} differ: {ours[0]:,} FLOPs and {ours[1]:,} params by its groups, "
            f"{flops:,} and {params:,} by fvcore and the module"
        )
    # unused parameters are not in the file; fewer params break no budget
    if file is not None and (file.flops != flops or file.params > params):
        raise InternalError(
            f"two counts of {base} differ: {flops:,} FLOPs and {params:,} params by its groups, "
            f"{file.flops:,} and {file.params:,} on its ONNX file"
        )
