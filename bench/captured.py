"""A trainer for GPUs whose step is one CUDA graph: small networks wait for launches otherwise.

It takes the steps that `Trainer` takes on a CPU: the same start, batches and order, in float32.
Only dropout draws other numbers there. So its networks are comparable with those a CPU trained.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.core.errors import DivergedError
from mobilenas.data import ImageData
from mobilenas.nn.weights import lay_out
from mobilenas.spaces.base import Arch
from mobilenas.train import Recipe, Trainer

Passes = dict[tuple[int, int], list[tuple[Tensor, Tensor]]]
"""Batches of a pass on the device, by seed and epoch: all networks of a table see the same."""
WARM_UP_STEPS = 3


@contextmanager
def float32() -> Iterator[None]:
    """Keep TensorFloat-32 and kernels that differ from run to run away."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


class CapturedTrainer(Trainer):
    """Trains one arch; without CUDA the same step runs without a graph, for tests."""

    def __init__(
        self,
        arch: Arch,
        data: ImageData,
        recipe: Recipe,
        *,
        seed: int,
        device: str = "cuda",
        passes: Passes | None = None,
    ) -> None:
        """Share `passes` between trainers of the same images and recipe."""
        super().__init__(arch, data, recipe, seed=seed, device=device)
        # cuDNN's depthwise kernels are several times slower on channels last
        lay_out(self._network, torch.contiguous_format, device)
        lay_out(self.model, torch.contiguous_format, device)
        self._passes: Passes = {} if passes is None else passes
        self._decaying, self._others = (g["params"] for g in self._optimizer.param_groups)
        self._weights = [*self._decaying, *self._others]
        self._momenta = [torch.zeros_like(weight) for weight in self._weights]
        pairs = [
            (average, value)
            for average, value in zip(
                [*self.model.parameters(), *self.model.buffers()],
                [*self._network.parameters(), *self._network.buffers()],
                strict=True,
            )
            if value.is_floating_point()
        ]
        self._averages, self._values = ([pair[n] for pair in pairs] for n in range(2))
        self._rate, self._share, self._loss_sum, self._norms = (
            torch.zeros((), device=device) for _ in range(4)
        )
        self._steps = 0
        self._replay: Callable[[], Any] | None = None

    def run_epoch(self) -> dict[str, float]:
        """Train for one pass; return `loss` (mean) and `lr` (of the last step).

        Raises DivergedError after a pass whose loss or gradient was not finite.
        """
        self._network.train()
        self._network.start_epoch(self.epochs_done / self.recipe.epochs)
        with self._randomness(f"epoch {self.epochs_done}"), float32():
            key = (self.seed, self.epochs_done)
            if key not in self._passes:
                self._passes[key] = [(x.contiguous(), y) for x, y in self._batches()]
            self._loss_sum.zero_()
            self._norms.zero_()
            lr = 0.0
            for step, (x, y) in enumerate(self._passes[key]):
                if self._replay is None:
                    self._x, self._y = x.clone(), y.clone()
                    self._replay = self._captured()
                progress = self.epochs_done + (step + 0.5) / self.steps_per_epoch
                lr = self.recipe.learning_rate_at(progress)
                self._x.copy_(x)
                self._y.copy_(y)
                self._rate.fill_(lr)
                decay = self.recipe.ema_decay_at(self._steps) if self._steps else 0.0
                self._share.fill_(1 - decay)
                self._replay()
                self._steps += 1
        self.epochs_done += 1
        loss = self._loss_sum.item() / len(self._passes[key])
        if not torch.isfinite(self._loss_sum + self._norms):
            raise DivergedError(f"epoch {self.epochs_done}: loss or gradient is not finite")
        return {"loss": loss, "lr": lr}

    def _captured(self) -> Callable[[], Any]:
        if torch.device(self.device).type != "cuda":
            return self._one_step
        start = deepcopy(self._network.state_dict())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self._optimizer.zero_grad(set_to_none=True)
                self._loss(self._x, self._y).backward()
        torch.cuda.current_stream().wait_stream(side)
        self._network.load_state_dict(start)
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # freeing an earlier trainer's graph would invalidate the capture
        try:
            with torch.cuda.graph(graph):
                self._one_step()
        finally:
            gc.enable()
        return graph.replay

    @torch.no_grad()
    def _one_step(self) -> None:
        """Do what `Trainer` and torch.optim.SGD with Nesterov momentum do in a step."""
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss = self._loss(self._x, self._y)
            loss.backward()
        self._loss_sum += loss.detach()
        self._norms += nn.utils.clip_grad_norm_(self._weights, self.recipe.gradient_clip)
        gradients = [weight.grad for weight in self._weights]
        torch._foreach_add_(
            gradients[: len(self._decaying)], self._decaying, alpha=self.recipe.weight_decay
        )
        torch._foreach_mul_(self._momenta, self.recipe.momentum)
        torch._foreach_add_(self._momenta, gradients)
        moves = torch._foreach_add(gradients, self._momenta, alpha=self.recipe.momentum)
        torch._foreach_mul_(moves, self._rate)
        torch._foreach_sub_(self._weights, moves)
        changes = torch._foreach_sub(self._values, self._averages)
        torch._foreach_mul_(changes, self._share)
        torch._foreach_add_(self._averages, changes)
