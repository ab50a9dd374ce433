"""The supernet of the mobile space: all of its networks in one set of weights."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn import ConvNorm
from mobilenas.nn.network import initialize
from mobilenas.spaces.mobile.mixed import BlockPick, BlockProbabilities, MixedBlock
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.table import Probabilities
from mobilenas.supernet.base import Supernet, full_precision
from mobilenas.supernet.samplers import mean
from mobilenas.supernet.settings import SamplerSettings


class SuperNetwork(Supernet):
    """Stem, mixed blocks, head, classifier; the alphas are kept separately."""

    def __init__(self, space: MobileSpace, sampler: SamplerSettings) -> None:
        super().__init__()
        self.space = space
        stem, head, last = space.stem, space.head, space.stages[-1].widths[-1]
        self.stem = ConvNorm(space.in_channels, stem.channels, 3, stem.stride, 1, stem.activation)
        self.blocks = nn.ModuleList(MixedBlock(space, slot, sampler) for slot in space.slots)
        self.head = ConvNorm(last, head.channels, activation=head.activation)
        self.classifier = nn.Linear(head.channels, space.classes)
        initialize(self)
        for block in self.mixed_blocks():
            if not block.slot.first:
                nn.init.zeros_(block.project_norm.weight)

    def forward(self, x: Tensor, p: Probabilities) -> Tensor:
        """x: [N, C, side, side] -> logits [N, classes] of the mixture under `p`."""
        x = self.stem(x)
        before = p.width.new_ones(1)
        for index, block in enumerate(self.mixed_blocks()):
            slot = block.slot
            out = p.width[slot.stage, : len(slot.out_widths)]
            with full_precision(x):
                squeeze = p.squeeze[index] @ p.squeeze.new_tensor(self.space.squeeze)
            probabilities = BlockProbabilities(
                in_width=before if slot.first else out,
                out_width=out,
                kernel=p.kernel[index],
                expansion=p.expansion[index, : len(slot.expansions)],
                squeeze=squeeze,
                start=p.start[index, -1],
                keep=p.keep[index, 1],
            )
            x = block(x, probabilities, self.channels_generator)
            before = out
        return self._classify(self.head(x))

    def run(self, x: Tensor, choice: Choice) -> Tensor:
        """x: [N, C, side, side] -> logits [N, classes] of one network, at its own cost."""
        x = self.stem(x)
        for block, pick in self.picks(choice):
            x = block.run(x, pick, self.channels_generator)
        convolution, norm, activation = self.head
        assert isinstance(convolution, nn.Conv2d)
        x = functional.conv2d(x, convolution.weight[:, : x.shape[1]])
        return self._classify(activation(norm(x)))

    def picks(self, choice: Choice) -> Iterator[tuple[MixedBlock, BlockPick]]:
        """Yield the blocks that a network has, with their options in it."""
        before = self.space.stem.channels
        for index, block in enumerate(self.mixed_blocks()):
            slot = block.slot
            if not choice.keep[index]:
                continue
            out = slot.out_widths[choice.width[slot.stage]]
            yield (
                block,
                BlockPick(
                    in_width=before if slot.first else out,
                    out_width=out,
                    kernel=self.space.kernels[choice.kernel[index]],
                    expansion=slot.expansions[choice.expansion[index]],
                    squeeze=self.space.squeeze[choice.squeeze[index]],
                    start=slot.start_kernels[choice.start[index]] > 0,
                ),
            )
            before = out

    def _classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(mean(features))
        return logits

    def mixed_blocks(self) -> Iterator[MixedBlock]:
        """Yield all blocks in order."""
        for block in self.blocks:
            assert isinstance(block, MixedBlock)
            yield block
