"""Training epoch by epoch; between epochs, `state_dict` holds the complete state."""

import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobilenas.core import processes
from mobilenas.core.errors import DataError, DivergedError, MobileNASError
from mobilenas.core.files import State
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.settings import counted
from mobilenas.data import ImageData, Split, batches, batches_per_pass
from mobilenas.nn.network import Network
from mobilenas.nn.parallel import add_up, gradients, shared_batches, weight_of
from mobilenas.nn.weights import lay_out
from mobilenas.spaces.base import Arch
from mobilenas.spaces.networks import build
from mobilenas.train.compiled import Forward, compiled
from mobilenas.train.distillation import Teacher, distillation_loss
from mobilenas.train.recipe import Amp, Recipe

EVALUATION_BATCH_SIZE = 256
"""Batch size without gradients."""
AUXILIARY_WEIGHT = 0.4
"""Weight of an auxiliary classifier's loss, as in DARTS (Liu et al. 2019)."""
READ_EVERY = 16
"""Losses are read every 16 steps, because reading waits for the GPU."""


def autocast(device: str, amp: Amp) -> torch.autocast:
    """Return the context of a forward pass in mixed precision; float32 where `amp` is off."""
    dtype = torch.float16 if amp == "float16" else torch.bfloat16
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=amp != "off")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Accuracy, loss and predictions of a network on a split."""

    top1: float
    """Percentage of images whose highest logit is that of their label."""
    loss: float
    """Mean cross-entropy, without label smoothing."""
    predictions: Tensor
    """int64 [N], in the split's order."""


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, data: ImageData, device: str = "cpu") -> Evaluation:
    """Evaluate `model` on `split` in eval mode and float32; its mode is restored.

    The processes of a job evaluate a share each, and all return the result for the whole split.
    """
    if not len(split):
        raise DataError(f"{data.name}: there are no images to measure on")
    was_training = model.training
    model.eval()
    losses, predictions = list[Tensor](), [torch.empty(0, dtype=torch.int64, device=device)]
    part = split
    if processes.count() > 1:
        part = split.subset(torch.arange(len(split))[processes.share_of(len(split))])
    given = batches(part, data, batch_size=EVALUATION_BATCH_SIZE, seed=None, device=device)
    for x, y in given:  # x: [B, 3, H, W], y: [B]
        logits = model(x).float()
        losses.append(F.cross_entropy(logits, y, reduction="sum"))
        predictions.append(logits.argmax(1))
    model.train(was_training)
    loss = sum(part.item() for part in losses)
    parts = processes.gather((torch.cat(predictions).cpu(), loss))
    predicted = torch.cat([part for part, _ in parts])
    right = int((predicted == split.labels).sum())
    loss = sum(part for _, part in parts) / len(split)
    return Evaluation(top1=100 * right / len(split), loss=loss, predictions=predicted)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[State]:
    """Return two parameter groups for an optimizer: weights with decay, and the rest without.

    Norms and biases do not decay, and neither do depthwise kernels: they have few parameters, and
    decay costs accuracy (MobileNet, Howard et al. 2017, section 4). Depthwise kernels of a supernet
    belong to no convolution module; their shape [C, 1, k, k] identifies them.
    """
    depthwise = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    depthwise |= {
        id(weight)
        for weight in model.parameters()
        if weight.dim() == 4 and weight.shape[1] == 1 < weight.shape[-1]
    }
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for weight in model.parameters():
        # parameters with one dimension are norms and biases
        decays = weight.dim() > 1 and id(weight) not in depthwise
        (decaying if decays else others).append(weight)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _optimizer(network: nn.Module, recipe: Recipe, *, given: bool) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; `given`: training starts from given weights."""
    groups = parameter_groups(network, recipe.weight_decay)
    if given and recipe.backbone_rate != 1:
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        last = {id(weight) for module in linear[-1:] for weight in module.parameters()}
        groups = [
            group
            | {"params": [w for w in group["params"] if (id(w) in last) == is_last], "factor": rate}
            for is_last, rate in ((False, recipe.backbone_rate), (True, 1.0))
            for group in groups
        ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


class Trainer:
    """Trains one arch. The same arguments give the same weights on the same machine."""

    def __init__(
        self,
        arch: Arch,
        data: ImageData,
        recipe: Recipe,
        *,
        seed: int,
        device: str = "cpu",
        split: Split | None = None,
        network: Network | None = None,
        teacher: Teacher | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Start from `network`, which must be of `arch`, or from weights drawn by the seed.

        With `teacher`, the distillation loss is added to the loss of the labels. If compiling the
        network fails, `reporter` gets the reason.
        """
        self._teacher = teacher
        self._reporter = NullReporter() if reporter is None else reporter
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        self.split = data.train if split is None else split
        if len(self.split) < 2:  # batch norm has no variance over one image
            raise DataError(
                f"{data.name}: {counted(len(self.split), 'image is', 'images are')} too few to "
                "train on"
            )
        _check_fit(arch, data)
        self.epochs_done = 0
        self._amp = recipe.amp_on(device)
        given = network is not None
        self._freezes_norms = recipe.freeze_norms and given
        if network is None:
            with self._randomness("start"):
                network = build(arch)
        self._network, self._compiles = network, recipe.compile
        self._forward: Forward = network.training_logits
        if recipe.norm_momentum is not None:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = recipe.norm_momentum
        lay_out(self._network, network.memory_format, device)
        self._parameters = list(network.parameters())  # walking the modules takes milliseconds
        self._average = AveragedModel(self._network, use_buffers=True)
        self._average.eval().requires_grad_(False)
        self._optimizer = _optimizer(self._network, recipe, given=given)
        self._scaler = torch.amp.GradScaler(enabled=self._amp == "float16")

    @property
    def model(self) -> nn.Module:
        """The network with averaged weights, in eval mode; later steps change it."""
        return self._average.module

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch."""
        return batches_per_pass(self.split, self.recipe.batch_size, drop_last=self._drops_last)

    @property
    def _drops_last(self) -> bool:
        # a set smaller than a batch still makes one step
        return len(self.split) >= self.recipe.batch_size

    def run_epoch(self) -> dict[str, float]:
        """Train for one pass; return `loss` (mean) and `lr` (of the last step).

        The loss includes that of an auxiliary classifier.

        Raises DivergedError if loss or gradient is not finite; the trainer cannot be used after
        that.
        """
        self._network.train()
        if self._freezes_norms:
            for module in self._network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        self._network.start_epoch(self.epochs_done / self.recipe.epochs)
        lr, losses, unread = 0.0, list[float](), list[Tensor]()
        with self._randomness(f"epoch {self.epochs_done}"), shared_batches():
            for x, y in self._batches():  # x: [B, 3, H, W], y: [B] or, mixed, [B, classes]
                if self._compiles:
                    self._compile(x)
                # the middle of a step, so that neither the first nor the last has a rate of 0
                step = len(losses) + len(unread)
                progress = self.epochs_done + (step + 0.5) / self.steps_per_epoch
                lr = self.recipe.learning_rate_at(progress)
                unread.append(self._step(x, y, lr))
                if len(unread) == READ_EVERY:
                    losses += self._read(unread, len(losses))
                    unread.clear()
        losses += self._read(unread, len(losses)) if unread else []
        self.epochs_done += 1
        return {"loss": sum(losses) / len(losses), "lr": lr}

    def evaluate(self, split: Split) -> Evaluation:
        """Evaluate the averaged weights on `split`."""
        return evaluate(self.model, split, self.data, self.device)

    def weights(self) -> dict[str, Tensor]:
        """Copy the averaged weights and statistics to the CPU, by their names in `build(arch)`."""
        return {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in self.model.state_dict().items()
        }

    def state_dict(self) -> State:
        """Return a copy of the state. Randomness needs none: it depends on seed and epoch alone."""
        return copy.deepcopy(
            {
                "epochs_done": self.epochs_done,
                "network": self._network.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                **({"scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else {}),
            }
        )

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned; arch, data, recipe and seed must be the same."""
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self.epochs_done = state["epochs_done"]

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        return iter(
            batches(
                self.split,
                self.data,
                batch_size=recipe.batch_size,
                seed=(self.seed, self.epochs_done),
                augmentation=recipe.augmentation(),
                device=self.device,
                drop_last=self._drops_last,
                shared=True,
            )
        )

    def _compile(self, x: Tensor) -> None:
        """Compile the network for batches such as x."""
        mixed = autocast(self.device, self._amp)
        self._forward = compiled(self._network, x, mixed, self._reporter)
        self._compiles = False

    def _step(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """Make a step; return [2], on the device: the loss and its gradient norm."""
        self._optimizer.zero_grad()
        with autocast(self.device, self._amp):
            loss = self._loss(x, y) * weight_of(len(x))
        self._scaler.scale(loss).backward()
        add_up([*gradients(self._parameters), loss := loss.detach()])
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self.recipe.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._update_average()
        return torch.stack((loss, norm.to(loss.dtype)))

    def _read(self, figures: list[Tensor], first: int) -> list[float]:
        """Return the losses of the steps after `first`; DivergedError if one is not finite."""
        rows: list[list[float]] = torch.stack(figures).tolist()
        for step, (loss, norm) in enumerate(rows, first + 1):
            # in float16 a loss scale that is too large gives an infinite gradient; the scaler skips
            # the step
            finite = math.isfinite(norm) or self._scaler.is_enabled()
            if not math.isfinite(loss) or not finite:
                raise DivergedError(
                    f"epoch {self.epochs_done + 1}, step {step}: the loss is {loss:g} and its "
                    f"gradient {norm:g}; a learning rate below {self.recipe.learning_rate:g} may "
                    "help"
                )
        return [loss for loss, _ in rows]

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        logits, *auxiliary = self._forward(x)
        loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
        for others in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(others, y, label_smoothing=smoothing)
        return loss + self._guidance(x, logits)

    def _guidance(self, x: Tensor, logits: Tensor) -> Tensor | float:
        """Return the distillation loss; 0 without a teacher."""
        if self._teacher is None:
            return 0.0
        return distillation_loss(logits, self._teacher(x), temperature=1.0)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Average weights and statistics; `AveragedModel` itself would wait for the GPU."""
        steps = int(self._average.n_averaged)  # on the CPU
        pairs = [*zip(_tensors(self.model), _tensors(self._network), strict=True)]
        # the first step and batch norm's step counters are copied
        mixed = [pair for pair in pairs if steps and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not (steps and pair[0].is_floating_point())]
        if mixed:
            averages, values = zip(*mixed, strict=True)
            torch._foreach_lerp_(averages, values, 1 - self.recipe.ema_decay_at(steps))
        if copied:
            averages, values = zip(*copied, strict=True)
            torch._foreach_copy_(averages, values)
        self._average.n_averaged += 1

    @contextmanager
    def _randomness(self, purpose: str) -> Iterator[None]:
        """Seed torch (dropout, initial weights) by seed and purpose; restore its state after."""
        digest = hashlib.sha256(f"{self.seed} {purpose}".encode()).digest()
        seed = int.from_bytes(digest[:7], "big")
        device = torch.device(self.device)
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
                )
                stack.enter_context(torch.random.fork_rng(devices=[device]))
                torch.cuda.manual_seed(seed)
            else:
                stack.enter_context(torch.random.fork_rng(devices=[]))
            # not torch.manual_seed, which moves the generators of all devices
            torch.default_generator.manual_seed(seed)
            yield


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _check_fit(arch: Arch, data: ImageData) -> None:
    for name, wanted, given in (
        ("image_size", arch.image_size, data.image_size),
        ("in_channels", arch.in_channels, data.channels),
        ("classes", arch.classes, len(data.classes)),
    ):
        if wanted != given:
            raise MobileNASError(f"{name} is {wanted} in the arch and {given} in {data.name}")
