from math import comb

import pytest
import torch

from mobilenas.data.chance import beats_chance, chance_top1


def balanced(images: int, classes: int) -> torch.Tensor:
    return torch.arange(images) % classes


def test_chance_is_the_most_frequent_class_and_one_of_all_at_least() -> None:
    assert chance_top1(balanced(80, 8), 8) == 12.5
    assert chance_top1(torch.tensor([0, 0, 0, 1]), 2) == 75
    assert chance_top1(torch.tensor([1, 0]), 2) == 50
    # of ten classes only four are among the images: naming one of them is right in a quarter
    assert chance_top1(balanced(40, 4), 10) == 25


@pytest.mark.parametrize(("images", "classes"), [(20, 2), (64, 8), (400, 10), (513, 24)])
def test_the_border_is_that_of_the_binomial_distribution(images: int, classes: int) -> None:
    labels = balanced(images, classes)
    p = max(labels.bincount().tolist()) / images

    def at_least(right: int) -> float:
        return sum(
            comb(images, k) * p**k * (1 - p) ** (images - k) for k in range(right, images + 1)
        )

    border = next(right for right in range(images + 1) if at_least(right) < 0.05)
    assert beats_chance(100 * border / images, labels, classes)
    assert not beats_chance(100 * (border - 1) / images, labels, classes)


def test_guessing_and_worse_are_chance_and_all_right_is_not() -> None:
    labels = balanced(64, 8)
    assert not beats_chance(12.5, labels, 8)
    assert not beats_chance(0.0, labels, 8)
    assert beats_chance(100.0, labels, 8)
    # of three images nothing can be told
    assert not beats_chance(100.0, torch.tensor([0, 1, 1]), 2)


def test_naming_the_most_frequent_class_is_no_more_than_chance() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert not beats_chance(90.0, labels, 2)
    assert beats_chance(96.0, labels, 2)
