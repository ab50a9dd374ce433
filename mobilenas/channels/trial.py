"""A trial: a model with new sizes and transferred weights, distilled from the one before."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mobilenas.channels.settings import ChannelSettings
from mobilenas.channels.weight_transfer import apply, choose, follow
from mobilenas.cost.projection import Sizes
from mobilenas.data import ImageData
from mobilenas.spaces.channels.space import ChannelsArch, ChannelsNetwork, ChannelsSpace
from mobilenas.train import Recipe, Trainer
from mobilenas.train.distillation import distillation_loss


class TrialTrainer(Trainer):
    """A trainer of a network with transferred weights, taught by the model before the change."""

    _network: ChannelsNetwork

    def __init__(
        self,
        arch: ChannelsArch,
        data: ImageData,
        recipe: Recipe,
        settings: ChannelSettings,
        *,
        seed: int,
        device: str,
        network: ChannelsNetwork | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        # fine-tuning settings do not apply: all layers are trained alike. Compiling a model takes
        # longer than its trial
        recipe = replace(recipe, backbone_rate=1.0, freeze_norms=False, compile=False)
        super().__init__(arch, data, recipe, seed=seed, device=device, network=network)
        self.arch, self.settings, self.teacher = arch, settings, teacher

    @property
    def inner(self) -> nn.Module:
        """The traceable model, with the weights of the last step."""
        return self._network.model

    def changed(self, space: ChannelsSpace, sizes: Sizes) -> "TrialTrainer":
        """Return a trainer of the model at other sizes, with transferred weights and momentum."""
        device, settings = self.device, self.settings
        graph = space.base.graph.at(self.arch.sizes)
        before = self.inner.cpu()
        change = choose(before, graph, sizes, method=settings.weight_transfer)
        generator = torch.Generator().manual_seed(self.seed + self.epochs_done)
        after = apply(before, change, generator=generator)
        teacher = self.model if settings.distill else None
        successor = TrialTrainer(
            space.arch(sizes),
            self.data,
            self.recipe,
            settings,
            seed=self.seed,
            device=device,
            network=ChannelsNetwork(after, space.base),
            teacher=teacher,
        )
        if settings.weight_transfer != "fresh":
            successor._optimizer = follow(self._optimizer, before, successor.inner, change)
        successor.epochs_done = self.epochs_done
        self.inner.to(device)
        return successor

    def _guidance(self, x: Tensor, logits: Tensor) -> Tensor | float:
        if self.teacher is None:
            return 0.0
        with torch.no_grad():
            wanted = self.teacher(x)
        temperature = self.settings.distill_temperature
        return self.settings.distill * distillation_loss(logits, wanted, temperature)
