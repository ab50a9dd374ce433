"""Operations of a cell supernet, each computed for all edges that read the same node.

The channels of all edges are concatenated, so that edges are groups of one convolution. `active`
are the edges that are computed, in order; `weights` [edges] scale their outputs.

Optimized for oneDNN on one core with channels last. Its depthwise convolutions have slow backward
passes if they are dilated, and slow weight gradients for kernels wider than 3; both are avoided.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "avg_pool_3x3": lambda x, stride: functional.avg_pool2d(
        x, 3, stride, 1, count_include_pad=False
    ),
    "max_pool_3x3": lambda x, stride: functional.max_pool2d(x, 3, stride, 1),
}

Context = Any
"""The context of autograd functions, with arbitrary attributes."""


class NodeInputs:
    """The input of the operations, with intermediate results that several of them share."""

    def __init__(self, x: Tensor, stride: int) -> None:
        self.x, self.stride = x, stride
        self.has_phases = stride == 2 or not (x.shape[2] % 2 or x.shape[3] % 2)
        """Whether dilated convolutions can run as plain ones on `phases`: sides must be even."""
        self._repeated: dict[tuple[bool, int], Tensor] = {}

    @cached_property
    def relu(self) -> Tensor:
        """ReLU of the input, [N, C, H, W]."""
        return self.x.relu()

    @cached_property
    def phases(self) -> Tensor:
        """[4N, C, H/2, W/2]: even and odd pixels separated; dilated kernels do not mix them.

        With stride 2, only the even ones: [N, C, H/2, W/2], rounded up.
        """
        if self.stride == 2:
            return self.relu[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return torch.cat([self.relu[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)])

    def repeated(self, edges: int, *, dilated: bool = False) -> Tensor:
        """Return the convolutions' input, `relu` or `phases`, repeated for each edge."""
        key = (dilated, edges)
        if key not in self._repeated:
            x = self.phases if dilated else self.relu
            self._repeated[key] = x if edges == 1 else torch.cat([x] * edges, 1)
        return self._repeated[key]


class EdgeNorm(nn.BatchNorm2d):
    """Batch norms of several edges, without parameters; calls pass the scale."""

    def __init__(self, edges: int, channels: int) -> None:
        super().__init__(edges * channels, affine=False)
        self.edges = edges

    def scaled(self, x: Tensor, active: Sequence[int], weights: Tensor | None = None) -> Tensor:
        """x: [N, active x C, H, W] -> same shape, normalized, times `weights` [edges]."""
        assert self.running_mean is not None and self.running_var is not None
        whole = self.running_mean, self.running_var
        mean, var = (select_active(statistic, active, self.edges) for statistic in whole)
        if weights is not None:
            weights = select_active(weights, active, self.edges)
            weights = weights.repeat_interleave(len(mean) // len(active))
        y = functional.batch_norm(
            x, mean, var, weights, None, self.training, self.momentum or 0.0, self.eps
        )
        if self.training and len(active) < self.edges:
            for statistic, part in zip(whole, (mean, var), strict=True):
                statistic.view(self.edges, -1)[list(active)] = part.view(len(active), -1)
        return y


class Separable(nn.Module):
    """Depthwise convolution, 1x1 convolution, norm."""

    def __init__(self, edges: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.edges = edges
        self.depthwise = _weight(edges * channels, 1, kernel, kernel)
        self.project = _weight(edges * channels, channels, 1, 1)
        self.norm = EdgeNorm(edges, channels)

    def apply_depthwise(
        self, x: Tensor, active: Sequence[int], stride: int = 1, dilation: int = 1
    ) -> Tensor:
        """Apply the depthwise convolution: [N, active x C, H, W] -> [N, active x C, H', W']."""
        weight = select_active(self.depthwise, active, self.edges)
        size = weight.shape[-1]
        needs_gradient = weight.requires_grad and torch.is_grad_enabled()
        if needs_gradient and size == 5 and dilation == 1 and x.device.type == "cpu":
            y: Tensor = _Depthwise5x5.apply(x, weight, stride)  # type: ignore[no-untyped-call]
            return y
        padding = dilation * (size // 2)
        return functional.conv2d(x, weight, None, stride, padding, dilation, len(weight))

    def apply_projection(
        self, x: Tensor, active: Sequence[int], weights: Tensor | None = None
    ) -> Tensor:
        """x: [N, active x C, H, W] -> same shape, projected and normalized, times `weights`."""
        weight = select_active(self.project, active, self.edges)
        y = functional.conv2d(x, weight, groups=len(active))
        return self.norm.scaled(y, active, weights)


class SeparableTwice(nn.Module):
    """sep_conv: two separable convolutions."""

    def __init__(self, edges: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = Separable(edges, channels, kernel)
        self.second = Separable(edges, channels, kernel)

    def forward(self, inputs: NodeInputs, active: Sequence[int], weights: Tensor) -> Tensor:
        """Return [N, active x C, H', W'], times `weights` [edges]."""
        first, second = self.first, self.second
        y = first.apply_depthwise(inputs.repeated(len(active)), active, inputs.stride)
        y = first.apply_projection(y, active).relu_()
        return second.apply_projection(second.apply_depthwise(y, active), active, weights)


class Dilated(Separable):
    """dil_conv: a dilated separable convolution."""

    def forward(self, inputs: NodeInputs, active: Sequence[int], weights: Tensor) -> Tensor:
        """Return [N, active x C, H', W'], times `weights` [edges]."""
        x = inputs.repeated(len(active), dilated=inputs.has_phases)
        y = self.apply_depthwise(x, active, dilation=1 if inputs.has_phases else 2)
        y = self.apply_projection(y, active, weights)
        if len(y) == len(inputs.x):
            return y
        n, channels, height, width = y.shape
        y = y.permute(0, 2, 3, 1).reshape(2, 2, n // 4, height, width, channels)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(n // 4, 2 * height, 2 * width, channels)
        return y.permute(0, 3, 1, 2)


class HalvingSkip(nn.Module):
    """skip_connect with stride 2: half of the channels read even pixels, half odd ones."""

    def __init__(self, edges: int, channels: int) -> None:
        super().__init__()
        self.edges, self.channels = edges, channels
        self.even = _weight(edges * (channels // 2), channels, 1, 1)
        self.odd = _weight(edges * (channels - channels // 2), channels, 1, 1)
        self.norm = EdgeNorm(edges, channels)

    def forward(self, inputs: NodeInputs, active: Sequence[int], weights: Tensor) -> Tensor:
        """Return [N, active x C, H/2, W/2], rounded up, times `weights` [edges]."""
        x, channels = inputs.relu, self.channels
        odd = functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1::2, 1::2]
        pixels = torch.cat([x[:, :, ::2, ::2], odd], 1)  # [N, 2C, H/2, W/2]
        halves = [
            select_active(weight, active, self.edges).view(len(active), -1, channels)
            for weight in (self.even, self.odd)
        ]
        # both halves of each edge; one reads the first C channels, one the others
        kernel = torch.cat(
            [functional.pad(halves[0], (0, channels)), functional.pad(halves[1], (channels, 0))], 1
        )
        y = functional.conv2d(pixels, kernel.flatten(0, 1)[:, :, None, None])
        return self.norm.scaled(y, active, weights)


class _Mix(torch.autograd.Function):
    """1x1 convolution that saves its input only if the kernel needs a gradient."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, kernel: Tensor) -> Tensor:
        """x: [N, I, H, W], kernel: [O, I] -> [N, O, H, W]."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, kernel)
        return functional.conv2d(x, kernel[:, :, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients for x and the kernel."""
        x, kernel = ctx.saved_tensors
        for_x = for_kernel = None
        if ctx.needs_input_grad[0]:
            for_x = functional.conv2d(gradient, kernel.t()[:, :, None, None].to(gradient))
        if ctx.needs_input_grad[1]:
            rows, columns = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (gradient, x))
            for_kernel = rows.t() @ columns.to(rows)
        return for_x, for_kernel


class _MaxPool2x2(torch.autograd.Function):
    """Max pool that saves the indices of maxima instead of the image."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C, H/2, W/2], rounded up."""
        y, indices = functional.max_pool2d_with_indices(x, (2, 2), ceil_mode=True)
        ctx.save_for_backward(indices)
        ctx.size = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> Tensor:
        """Return the gradient for x."""
        (indices,) = ctx.saved_tensors
        # only its shape matters; `empty_permuted` is channels last
        blank = torch.empty_permuted(
            ctx.size, (0, 2, 3, 1), dtype=gradient.dtype, device=gradient.device
        )
        options = (2, 2), (2, 2), (0, 0), (1, 1), True
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        for_x: Tensor = backward(gradient, blank, *options, indices)
        return for_x


class _Depthwise5x5(torch.autograd.Function):
    """Depthwise convolution that computes its weight gradient in two parts.

    Columns 0 and 1, then 2 to 4, take a quarter of the time of all five at once.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """x: [N, C, H, W], weight: [C, 1, 5, 5] -> [N, C, H', W']."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Return the gradients for x and the weight."""
        x, weight = (saved.to(gradient) for saved in ctx.saved_tensors)

        def gradient_of(of: int, x: Tensor, kernel: Tensor, columns_padded: int) -> Tensor:
            mask = [number == of for number in range(3)]
            sizes = (ctx.stride,) * 2, (2, columns_padded), (1, 1), False, (0, 0), len(kernel)
            found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
                gradient, x, kernel, None, *sizes, mask
            )
            return found[of]

        for_x = gradient_of(0, x, weight, 2) if ctx.needs_input_grad[0] else None
        left, right = weight[..., :2].contiguous(), weight[..., 2:].contiguous()
        parts = [
            gradient_of(1, functional.pad(x, (2, -1)), left, 0),
            gradient_of(1, functional.pad(x, (0, 2)), right, 0),
        ]
        return for_x, torch.cat(parts, 3), None


def mix(x: Tensor, kernel: Tensor) -> Tensor:
    """Apply a 1x1 convolution: x [N, I, H, W], kernel [O, I] -> [N, O, H, W]."""
    y: Tensor = _Mix.apply(x, kernel)  # type: ignore[no-untyped-call]
    return y


def halve(x: Tensor) -> Tensor:
    """Apply a 2x2 max pool: x [N, C, H, W] -> [N, C, H/2, W/2], rounded up."""
    y: Tensor = _MaxPool2x2.apply(x)  # type: ignore[no-untyped-call]
    return y


def own_operation(name: str, edges: int, channels: int, stride: int) -> nn.Module | None:
    """Return a module with separate weights per edge; None if edges share the result."""
    kind, _, size = name.rpartition("_")
    if kind == "sep_conv":
        return SeparableTwice(edges, channels, int(size[0]))
    if kind == "dil_conv":
        return Dilated(edges, channels, int(size[0]))
    if name == "skip_connect" and stride == 2:
        return HalvingSkip(edges, channels)
    return None


def select_active(rows: Tensor, active: Sequence[int], edges: int) -> Tensor:
    """Select the rows of active edges: [edges x R, ...] -> [active x R, ...]."""
    if len(active) == edges:
        return rows
    parts = rows.view(edges, -1, *rows.shape[1:])[list(active)]
    return parts.view(-1, *rows.shape[1:])


def _weight(*shape: int) -> nn.Parameter:
    """Return a weight, initialized like the convolution of a single edge in torch."""
    weight = nn.Parameter(torch.empty(shape))
    nn.init.kaiming_uniform_(weight, a=5**0.5)
    return weight
