"""The bilevel loop: alternate steps of the weights and of the alphas.

The weights are trained on one half of the training images, the alphas on the other.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core import processes
from mobilenas.core.errors import DivergedError
from mobilenas.core.files import State
from mobilenas.core.progress import clock
from mobilenas.cost.budgets import Budgets, ConstraintLoss
from mobilenas.data import Augmentation, ImageData, Split, batches, halves, stratified_subset
from mobilenas.nn.parallel import add_up, gradients, shared_batches, weight_of
from mobilenas.nn.weights import lay_out
from mobilenas.search.diagnostics import gradient_norm
from mobilenas.search.settings import SearchSettings
from mobilenas.search.unrolled import unrolled_gradients
from mobilenas.spaces.base import AnyChoice, Relaxation, searchable
from mobilenas.supernet.samplers import ChannelSampler
from mobilenas.train import READ_EVERY, autocast, parameter_groups
from mobilenas.train.distillation import distillation_loss
from mobilenas.train.recipe import Amp

_CLIP = 5.0
MONITOR_IMAGES = 512
"""Maximum number of validation images for an epoch's metrics."""
_MAX_UTILIZATION = 1.5
_MAX_DRAWS = 50


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """Results of training an epoch; `SearchLine` has the same fields."""

    epoch: int
    loss: float
    alpha_loss: float
    weight_gradient_norm: float
    alpha_gradient_norm: float | None
    seconds: float


class Searcher:
    """A supernet, its alphas, and everything else that is trained or kept from epoch to epoch."""

    def __init__(
        self,
        budgets: Budgets,
        data: ImageData,
        settings: SearchSettings,
        *,
        seed: int,
        device: str = "cpu",
        amp: Amp = "off",
        weights: State | None = None,
    ) -> None:
        """Start from `weights` of the largest network, or from weights drawn by the seed.

        `amp` is the precision of final training; the supernet is trained in bfloat16 or float32.
        """
        self.budgets, self.data, self.settings = budgets, data, settings
        self.space = budgets.space
        self.searchable = search = searchable(self.space)
        self.seed, self.device = seed, device
        self._amp: Amp = "bfloat16" if amp == "bfloat16" else "off"  # float16 needs a scaled loss
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.net = search.supernet(self.space, settings.sampler)
        if weights is not None:
            self.net.start_from(weights)
        lay_out(self.net, torch.channels_last, device)
        self.alphas = search.alphas(
            self.space, none=settings.zero_op, edge_weights=settings.edge_weights
        ).to(device)
        self.weight_half, self.alpha_half = halves(data.train, seed)
        if settings.sampling == "sandwich" and settings.warmup >= settings.epochs:
            self.weight_half = data.train  # there are no steps of the alphas
        # for the log only: nothing is chosen by it
        self.monitor_split = stratified_subset(data.val, min(MONITOR_IMAGES, len(data.val)), seed)
        self.constraint = ConstraintLoss(
            settings.constraint, budgets, strength=settings.strength, rho=settings.rho
        )
        self.weight_optimizer = torch.optim.SGD(
            parameter_groups(self.net, settings.weight_decay),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )
        self.alpha_optimizer = torch.optim.Adam(
            self.alphas.parameters(),
            lr=settings.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=settings.alpha_weight_decay,
        )
        self.epochs_done = 0

    @property
    def tau(self) -> float:
        """Temperature of the next epoch."""
        return self.tau_at(self.epochs_done)

    def tau_at(self, epoch: int) -> float:
        """Return the temperature of an epoch, counted from 0; constant after the last one."""
        s = self.settings
        return s.temperature.at(min(epoch, s.epochs - 1), s.warmup, s.epochs)

    def run_epoch(self) -> EpochFigures:
        """Train one epoch; return mean losses, norms of the last gradients, and seconds."""
        began = clock(self.device)
        epoch, warm = self.epochs_done, self.epochs_done >= self.settings.warmup
        self.start_epoch(epoch)
        self.net.train()
        alpha_batches = self._batches(self.alpha_half, epoch, 1)
        steps = max(1, len(self.weight_half) // self.settings.batch_size)
        done, losses = 0, _Losses(epoch)
        try:
            with shared_batches():
                for x, y in self._batches(self.weight_half, epoch, 0):
                    self._set_rate((epoch + done / steps) / self.settings.epochs)
                    losses.add("weights", done, self.weight_step(x, y, epoch))
                    batch = next(alpha_batches, None) if warm else None
                    if batch is not None:
                        losses.add("alphas", done, self.alpha_step(*batch, train=(x, y)))
                    done += 1
                    if done % READ_EVERY == 0:
                        losses.read()
        finally:  # if a step failed, NaN may be the cause
            losses.read()
        self.epochs_done += 1
        return EpochFigures(
            epoch=self.epochs_done,
            loss=losses.sums["weights"] / done,
            alpha_loss=losses.sums["alphas"] / done,
            weight_gradient_norm=gradient_norm(self.net.parameters()),
            alpha_gradient_norm=gradient_norm(self.alphas.parameters()) if warm else None,
            seconds=sum(processes.gather(clock(self.device) - began)),
        )

    def _batches(self, half: Split, epoch: int, which: int) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = Augmentation(crop_padding=self.data.image_size // 8, flip=self.data.flip)
        return batches(
            half,
            self.data,
            batch_size=min(self.settings.batch_size, len(half)),
            seed=(self.seed, which, epoch),
            augmentation=augmentation,
            device=self.device,
            drop_last=True,
            shared=True,
        )

    def start_epoch(self, epoch: int) -> None:
        """Seed the generators for an epoch, so that a resumed search runs as if uninterrupted."""
        self._choices = random.Random(f"{self.seed}/{epoch}")
        self._gumbel = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        self.net.channels_generator.manual_seed(self.seed * 1_000_003 + epoch)
        for module in self.net.modules():
            if isinstance(module, ChannelSampler):
                module.reset_counts()

    def _set_rate(self, done: float) -> None:
        warm = min(1.0, done * self.settings.epochs)
        rate = self.settings.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2
        for group in self.weight_optimizer.param_groups:
            group["lr"] = max(rate, 1e-4 * self.settings.learning_rate)

    def weight_step(self, x: Tensor, y: Tensor, epoch: int) -> Tensor:
        """Update the weights on a batch, x [N, C, H, W] and y [N].

        Returns [2], on the device: the loss and its gradient's norm.
        """
        self.weight_optimizer.zero_grad(set_to_none=True)
        weight, network = weight_of(len(x)), self._network(epoch)
        with self._autocast():
            loss = functional.cross_entropy(logits := network(x), y, label_smoothing=0.1)
        loss = loss * weight
        loss.backward()
        if self.settings.sampling == "sandwich":
            others = [self.space.smallest(), self._draw_feasible(epoch), self._draw_feasible(epoch)]
            for choice in others:
                alone = self.alphas.alone(self.net, choice)
                with self._autocast():
                    distilled = distillation_loss(alone(x), logits, temperature=1.0)
                (distilled * weight).backward()
        add_up([*gradients(self.net.parameters()), loss := loss.detach()])
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
        self.weight_optimizer.step()
        return torch.stack((loss, norm.to(loss)))

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self._amp)

    def _network(self, epoch: int) -> Callable[[Tensor], Tensor]:
        """Return what learns from the labels in a step: a function of x [N, C, H, W] to logits."""
        if self.settings.sampling == "sandwich":
            return self.alphas.alone(self.net, self.space.largest())
        if self.settings.sampling == "single-path" and self.searchable.draws:
            return self.alphas.alone(self.net, self._draw_network(epoch))
        with torch.no_grad():
            return partial(self.net, p=self.relaxation(self._gumbel))

    def relaxation(self, generator: torch.Generator, epoch: int | None = None) -> Relaxation:
        """Return the relaxation for a step of `epoch` (default: the next): softmax or a draw."""
        tau = self.tau if epoch is None else self.tau_at(epoch)
        if self.settings.sampling == "softmax":
            return self.alphas.soft(tau)
        return self.alphas.gumbel(tau, generator, hard=self.settings.sampling == "single-path")

    def _draw_network(self, epoch: int) -> AnyChoice:
        """Draw a network to train, if possible not far over budget, where networks teach little."""
        drawn = iter(lambda: self.space.random(self._choices), None)
        if self.searchable.draws and epoch >= self.settings.warmup:
            drawn = self.searchable.draws(self.alphas, self._choices)
        for choice in islice(drawn, _MAX_DRAWS):
            if self.budgets.utilization(choice) <= _MAX_UTILIZATION:
                break
        return choice

    def _draw_feasible(self, epoch: int) -> AnyChoice:
        """Draw a feasible network; after warm-up, one by the alphas if a few draws have one."""
        if epoch >= self.settings.warmup and self.searchable.draws:
            drawn = islice(self.searchable.draws(self.alphas, self._choices), _MAX_DRAWS)
            found = next(filter(self.budgets.is_feasible, drawn), None)
            if found is not None:
                return found
        return self.budgets.random(self._choices)

    def alpha_step(
        self, x: Tensor, y: Tensor, *, train: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Update the alphas on a batch, x [N, C, H, W] and y [N].

        Order 2 also needs `train`, the batch for the step of the weights. Returns [2], on the
        device: the cross-entropy, and the sum of gradient norm and total loss, to detect NaN.
        """
        self.alpha_optimizer.zero_grad(set_to_none=True)
        weight = weight_of(len(x))
        if self.settings.order == 2 and train is not None:
            loss = self._second_order_gradients((x, y), train)
            for alpha in gradients(self.alphas.parameters()):
                alpha.mul_(weight)  # every process has the whole gradient
            total = self._regularization()
        else:
            with self.net.frozen():
                loss = self._cross_entropy(x, y)
                total = loss + self._regularization()
        if total.requires_grad:
            (total * weight).backward()  # adds to the gradients of order 2
        add_up([*gradients(self.alphas.parameters()), loss := loss.detach() * weight])
        norm = nn.utils.get_total_norm(gradients(self.alphas.parameters()))
        self.alpha_optimizer.step()
        self.constraint.update()
        return torch.stack((loss, (norm + total.detach()).to(loss)))

    def _cross_entropy(self, x: Tensor, y: Tensor) -> Tensor:
        p = self.relaxation(self._gumbel)
        with self._autocast():
            return functional.cross_entropy(self.net(x, p), y)

    def _second_order_gradients(
        self, val: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Set the alphas' gradients of the loss after a step of the weights; return that loss."""

        def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
            return self._cross_entropy(*batch) * weight_of(len(batch[0]))

        gradients, loss = unrolled_gradients(
            self.net,
            list(self.alphas.parameters()),
            self.weight_optimizer,
            lambda: loss_of(train),
            lambda: loss_of(val),
        )
        for alpha, gradient in zip(self.alphas.parameters(), gradients, strict=True):
            alpha.grad = gradient
        return loss.detach()

    def _regularization(self) -> Tensor:
        """Return the sum of the constraint and entropy losses."""
        s = self.settings
        total = self.constraint(self.alphas.soft(self.tau))
        factors = s.entropy.factors(self.epochs_done, s.warmup, s.epochs)
        if factors.get("operations"):
            total = total + factors["operations"] * self.alphas.entropy(self.tau)
        if factors.get("edges"):
            total = total + factors["edges"] * self.alphas.edge_entropy()
        return total

    @torch.no_grad()
    def top1(self, forward: Callable[[Tensor], Tensor], split: Split) -> float:
        """Return the percentage of `split` that `forward` classifies correctly."""
        correct = sum(int((forward(x).argmax(1) == y).sum()) for x, y in self.shuffled(split))
        return 100 * correct / len(split)

    def shuffled(self, split: Split, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches of `split` once, shuffled by the seed.

        Folders are read class by class, and batches of few classes would bias batch statistics and
        the attention of channel samplers.
        """
        return batches(
            split, self.data, batch_size=batch_size, seed=(self.seed,), device=self.device
        )

    def state_dict(self) -> State:
        """Return the state for resuming."""
        return {
            "net": self.net.state_dict(),
            "alphas": self.alphas.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "constraint": self.constraint.state_dict(),
            "epochs_done": self.epochs_done,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.alphas.load_state_dict(state["alphas"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.constraint.load_state_dict(state["constraint"])
        self.epochs_done = state["epochs_done"]


class _Losses:
    """Losses of an epoch's steps; they stay on the device until they are read."""

    def __init__(self, epoch: int) -> None:
        self.sums = {"weights": 0.0, "alphas": 0.0}
        self._epoch, self._unread = epoch, list[tuple[str, int, Tensor]]()

    def add(self, moved: str, step: int, figures: Tensor) -> None:
        """Store the result [2] of a step; `moved`: weights or alphas."""
        self._unread.append((moved, step, figures))

    def read(self) -> None:
        """Add up the stored losses; DivergedError names the first step that is not finite."""
        steps, self._unread = self._unread, []
        rows = torch.stack([figures for *_, figures in steps]).tolist() if steps else []
        for (moved, step, _), (loss, other) in zip(steps, rows, strict=True):
            _check_finite(loss, other, self._epoch, step)
            self.sums[moved] += loss


def _check_finite(loss: float, other: float, epoch: int, step: int) -> None:
    """Raise DivergedError unless the loss and `other`, which includes its gradient, are finite."""
    if not (math.isfinite(loss) and math.isfinite(other)):
        wrong = f"loss is {loss}" if not math.isfinite(loss) else f"loss's gradient is {other}"
        raise DivergedError(
            f"the {wrong} at epoch {epoch + 1}, step {step + 1} of the search; "
            "the last good checkpoint is kept: try a lower learning rate"
        )
