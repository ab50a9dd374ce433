"""A supernet trained by the sandwich rule with in-place distillation, for `bench/ranking.py`.

BigNAS (Yu et al. 2020): every step runs the largest network on the labels, and the smallest and two
random ones on what the largest answers.
"""

import time
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.search.gap import supernet_top1
from mobilenas.search.loop import Searcher
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import AnyChoice
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train import Recipe
from mobilenas.train.distillation import distillation_loss


class Sandwich(Searcher):
    """Trains weights alone, on all training images, at a recipe's rate."""

    def __init__(self, budgets: Budgets, data: ImageData, recipe: Recipe, epochs: int) -> None:
        settings = SearchSettings(
            epochs=epochs,
            warmup=epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            sampler=SamplerSettings(name="full"),
        )
        super().__init__(budgets, data, settings, seed=0)
        self.weight_half, self.recipe = data.train, recipe

    def weight_step(self, x: Tensor, y: Tensor, epoch: int, step: int) -> float:
        """Move the weights by one batch, x [N, C, H, W] and y [N]; return the summed loss."""
        net, space = self.net, self.space
        assert isinstance(net, SuperNetwork)
        others = [space.smallest(), *(space.random(self._choices) for _ in range(2))]
        largest = net.run(x, space.largest())
        loss = functional.cross_entropy(largest, y, label_smoothing=self.recipe.label_smoothing)
        for choice in others:
            loss = loss + distillation_loss(net.run(x, choice), largest, temperature=1.0)
        self.weight_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), self.recipe.gradient_clip)
        self.weight_optimizer.step()
        return loss.item()


def sandwich_top1(
    budgets: Budgets, choices: Sequence[AnyChoice], data: ImageData, recipe: Recipe, epochs: int
) -> tuple[list[float], float]:
    """Return validation top-1 of each with the supernet's weights, and seconds of its training."""
    began, searcher = time.process_time(), Sandwich(budgets, data, recipe, epochs)
    for _ in range(epochs):
        searcher.run_epoch()
    seconds = time.process_time() - began
    return supernet_top1(searcher, choices, data.val), seconds
