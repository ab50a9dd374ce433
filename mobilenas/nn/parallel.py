"""Data-parallel training with the results of a single process that has the whole batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx, once_differentiable
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from mobilenas.core import processes


def weight_of(images: int) -> float:
    """Return the share of the whole batch that `images`, the number in this process, make up.

    Means over the shares, times these weights, sum up to the mean over the batch.
    """
    return images / int(processes.add_up(torch.tensor(images)))


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the gradients of the parameters that have one."""
    return [weight.grad for weight in parameters if weight.grad is not None]


@torch.no_grad()
def add_up(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the processes, in place and in one exchange; all have the same dtype."""
    if processes.count() == 1 or not tensors:
        return
    flat = processes.add_up(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def shared_batches() -> AbstractContextManager[object]:
    """Make layers that depend on the whole batch act on it inside the context.

    In training mode, batch norm uses statistics of the whole batch, and dropout masks are slices of
    one for the whole batch. Modules need no changes.
    """
    return nullcontext() if processes.count() == 1 else _SharedBatches()


class _SharedBatches(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return _LAYERS.get(func, func)(*args, **(kwargs or {}))


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """x: [N, ...] -> same shape; the masks of torch.nn.functional.dropout on the whole batch."""
    if not training or not p:
        return functional.dropout(x, p, training, inplace)
    images = int(processes.add_up(torch.tensor(len(x))))
    mask = functional.dropout(x.new_ones(images, *x.shape[1:]), p)
    return x * mask[processes.share_of(images)]


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """x: [N, C, ...] -> same shape, like torch.nn.functional.batch_norm."""
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    y: Tensor
    if x.is_cuda:
        group = torch.distributed.group.WORLD
        y = SyncBatchNorm.apply(
            *(x, weight, bias, running_mean, running_var, eps, momentum, group),
            processes.count(),
        )
        return y
    y, mean, var, count = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    return y


class _Context(FunctionCtx):
    count: Tensor
    eps: float
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class _BatchNorm(Function):
    """Batch norm over all processes, on the CPU (torch's SyncBatchNorm needs a GPU)."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: [N, C, ...] -> normalized x, mean [C], biased variance [C], values per channel."""
        channels, own = x.shape[1], x.numel() // x.shape[1]
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)  # var_mean is 30 times slower
        # float64, since the square of a large mean would absorb a small variance
        first = mean.double()
        sums = torch.cat([first, var.double() + first.square(), first.new_ones(1)]) * own
        mean, square, (count,) = processes.add_up(sums).split([channels, channels, 1])
        mean, var = mean / count, square / count - (mean / count).square()
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        y = functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, var)  # type: ignore[arg-type] # None is fine
        ctx.count, ctx.eps = count, eps
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """dy: [N, C, ...] -> gradients of x, and of weight and bias over this process's share."""
        x, weight, mean, var = ctx.saved_tensors
        dx, scale_sum, shift_sum = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        # that is the gradient with fixed statistics; the rest flows through mean and variance
        sums = processes.add_up(torch.cat([scale_sum, shift_sum]).double()) / ctx.count
        through_scale, through_shift = sums.split(len(mean))
        inverse = (var.double() + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        slope = scale * inverse * through_scale
        level = scale * through_shift - slope * mean
        shape = [1, -1] + [1] * (x.dim() - 2)
        level, slope = (t.to(x.dtype).view(shape) for t in (level, slope))
        dx.sub_(torch.addcmul(level, x, slope))
        has_scale, has_shift = ctx.needs_input_grad[1:3]
        return dx, scale_sum if has_scale else None, shift_sum if has_shift else None, None


_LAYERS: dict[object, Callable[..., Tensor]] = {
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
}
