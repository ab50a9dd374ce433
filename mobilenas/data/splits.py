"""Splits, and the seeded, stratified rules that make them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mobilenas.core.errors import DataError
from mobilenas.data.stores import ImageStore


@dataclass(frozen=True, eq=False)
class Split:
    """Some labelled images of a store; subsets copy no pixels."""

    store: ImageStore
    """The images."""
    indices: Tensor
    """int64 [N]: indices in the store."""
    labels: Tensor
    """int64 [N]: class indices."""

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return the images at `indices` [B] of this split: uint8 [B, 3, H, W]."""
        return self.store.fetch(self.indices[torch.as_tensor(indices, dtype=torch.int64)])

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield uint8 [B, 3, H, W] for each int64 [B] of `chunks`; files are read ahead."""
        return self.store.stream(self.indices[chunk] for chunk in chunks)

    def subset(self, indices: Tensor | Sequence[int]) -> "Split":
        """Return a split of the images at `indices` [B] of this one, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return Split(self.store, self.indices[chosen], self.labels[chosen])


def generator_for(seed: tuple[int, ...]) -> torch.Generator:
    """Return a CPU generator seeded by all numbers of `seed`, the same on every machine."""
    digest = hashlib.sha256(repr(tuple(int(number) for number in seed)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def _shuffled_classes(labels: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield the shuffled indices of each class; a class's order does not depend on the others."""
    by_class = torch.argsort(labels, stable=True).split(torch.bincount(labels).tolist())
    for label, places in enumerate(by_class):
        order = torch.randperm(len(places), generator=generator_for((seed, label)))
        yield places[order]


def _joined(pieces: list[Tensor]) -> Tensor:
    joined = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)
    return joined.sort().values


def stratified_parts(labels: Tensor, shares: tuple[float, ...], seed: int) -> tuple[Tensor, ...]:
    """Return indices of the rest and of one part per share, stratified by labels [N]."""
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for places in _shuffled_classes(labels, seed):
        used = 0
        for part, share in zip(parts[1:], shares, strict=True):
            wanted = max(1, int(len(places) * share + 0.5))
            count = min(wanted, max(0, len(places) - 1 - used))  # one image is left for the rest
            part.append(places[used : used + count])
            used += count
        parts[0].append(places[used:])
    return tuple(map(_joined, parts))


def halves(split: Split, seed: int) -> tuple[Split, Split]:
    """Return two disjoint stratified halves of `split`; their sizes differ by at most one image."""
    first: list[Tensor] = []
    second: list[Tensor] = []
    for places in _shuffled_classes(split.labels, seed):
        middle = len(places) // 2
        parts = [places[:middle], places[middle:]]
        if sum(map(len, first)) <= sum(map(len, second)):
            parts.reverse()  # the odd image goes to the smaller half
        first.append(parts[0])
        second.append(parts[1])
    return split.subset(_joined(first)), split.subset(_joined(second))


def stratified_subset(split: Split, size: int, seed: int) -> Split:
    """Return `size` images with the class shares of `split`; DataError if there are too few."""
    if not 1 <= size <= len(split):
        raise DataError(f"a subset of {size} images was requested; there are {len(split)}")
    classes = list(_shuffled_classes(split.labels, seed))
    quotas = [len(places) * size / len(split) for places in classes]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(classes)), key=lambda label: counts[label] - quotas[label])
    for label in by_remainder[: size - sum(counts)]:
        counts[label] += 1
    return split.subset(
        _joined([places[:count] for places, count in zip(classes, counts, strict=True)])
    )
