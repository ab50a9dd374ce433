"""Small models for images of 16 to 32 pixels, as a user brings them: `--model bench.nets:NAME`."""

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 47


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.append(nn.Conv2d(before, after, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, before, H, W] -> [N, after, H / stride, W / stride]."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for CIFAR (He et al. 2016, section 4.2), with 1x1 shortcuts."""

    def __init__(self, blocks: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        before = widths[0]
        layers: list[nn.Module] = [
            nn.Conv2d(3, before, 3, 1, 1, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(),
        ]
        for stage, width in enumerate(widths):
            for number in range(blocks):
                layers.append(Block(before, width, 2 if stage and not number else 1))
                before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, 3, side, side] -> logits [N, CLASSES]."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def resnet8() -> nn.Module:
    """Three blocks."""
    return ResNet(1)


def resnet14() -> nn.Module:
    """Six blocks."""
    return ResNet(2)
