"""Batches of normalized images. Shuffling and augmentation depend on the seed alone."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mobilenas.core import processes
from mobilenas.core.devices import on_device
from mobilenas.core.errors import DataError
from mobilenas.data.image_data import ImageData
from mobilenas.data.settings import Augmentation
from mobilenas.data.splits import Split, generator_for

_PADDING_SHARE = 8
_RANDAUGMENT_GROUP = 16
_PIXELS_AT_ONCE = 2**18


def _chunk_lengths(count: int, batch_size: int, *, shuffled: bool, drop_last: bool) -> list[int]:
    lengths = [batch_size] * (count // batch_size)
    rest = count % batch_size
    if rest == 1 and shuffled and lengths and not drop_last:
        lengths[-1] += 1  # batch norm has no variance over one image
    elif rest and not drop_last and not (rest == 1 and shuffled):
        lengths.append(rest)
    return lengths


def batches_per_pass(
    split: Split, batch_size: int, *, shuffled: bool = True, drop_last: bool = False
) -> int:
    """Return the number of batches that one call of `batches` yields."""
    return len(_chunk_lengths(len(split), batch_size, shuffled=shuffled, drop_last=drop_last))


def batches(
    split: Split,
    data: ImageData,
    *,
    batch_size: int,
    seed: tuple[int, ...] | None,
    augmentation: Augmentation | None = None,
    device: str | torch.device = "cpu",
    drop_last: bool = False,
    shared: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one pass: normalized channels-last float32 [B, 3, H, W] and labels int64 [B].

    If the augmentation mixes images, labels are class probabilities, float32 [B, classes]. The same
    seed, such as (run seed, stage, epoch), gives the same pass; without a seed, images come in
    order. A shuffled pass has no batch of one image: a single last image joins the batch before it.
    With `shared`, each process of the job gets its slice of every batch.
    """
    smallest = 1 if seed is None else 2
    if batch_size < smallest:
        raise DataError(f"batch_size is {batch_size}; it must be at least {smallest}")
    if seed is None and augmentation is not None:
        raise DataError("augmentation needs a seed, so that a pass can be repeated")
    generator = None if seed is None else generator_for(seed)
    lengths = _chunk_lengths(len(split), batch_size, shuffled=seed is not None, drop_last=drop_last)
    order = (
        torch.arange(len(split))
        if generator is None
        else torch.randperm(len(split), generator=generator)
    )
    chunks = order[: sum(lengths)].split(lengths) if lengths else ()
    shared = shared and processes.count() > 1
    if shared and lengths and min(lengths) < processes.count():
        raise DataError(
            f"a batch of {min(lengths)} images cannot be shared by {processes.count()} processes"
        )
    stream = _own_shares(split, chunks) if shared else split.stream(chunks)
    given = zip(chunks, stream, strict=True)
    whole = _passes(split, data, given, generator, augmentation, torch.device(device))
    return map(_own_share, whole) if shared else whole


def _own_shares(split: Split, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield batches, uint8 [B, 3, H, W], with only this process's share read and the rest black.

    Augmentation is drawn for whole batches, so that results do not depend on the number of
    processes. Also reads the image before the share, because an image may be mixed with its
    predecessor.
    """
    places = []
    for chunk in chunks:
        own = processes.share_of(len(chunk))
        places.append(torch.arange(own.start - 1, own.stop) % len(chunk))
    stream = split.stream(chunk[place] for chunk, place in zip(chunks, places, strict=True))
    for chunk, place, images in zip(chunks, places, stream, strict=True):
        whole = images.new_zeros(len(chunk), *images.shape[1:])
        whole[place] = images
        yield whole


def _own_share(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    own = processes.share_of(len(batch[1]))
    return batch[0][own], batch[1][own]


def _passes(
    split: Split,
    data: ImageData,
    whole: Iterable[tuple[Tensor, Tensor]],
    generator: torch.Generator | None,
    augmentation: Augmentation | None,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    for chunk, images in whole:
        images = on_device(images, device)
        labels = on_device(split.labels[chunk], device)
        if augmentation is None or generator is None:
            yield _normalized(images, data), labels
        else:
            x = _augmented(images, data, augmentation, generator)
            yield _mixed(x, labels, len(data.classes), augmentation, generator)


def _normalize_into(out: Tensor, images: Tensor, data: ImageData) -> None:
    """Write (value / 255 - mean) / std of uint8 [B, 3, H, W] to contiguous float32 [B*H*W, 3]."""
    count, channels, height, width = images.shape
    scale = torch.tensor([1 / (255 * std) for std in data.std])
    shift = torch.tensor([-mean / std for mean, std in zip(data.mean, data.std, strict=True)])
    out.view(count, height, width, channels).copy_(images.permute(0, 2, 3, 1))
    # One long row per image is several times faster than broadcasting over rows of 3 values.
    rows = out.view(count, -1).mul_(on_device(scale, images.device).repeat(height * width))
    rows.add_(on_device(shift, images.device).repeat(height * width))


def _normalized(images: Tensor, data: ImageData) -> Tensor:
    """Normalize uint8 [B, 3, H, W] -> float32 [B, 3, H, W], channels last."""
    count, channels, height, width = images.shape
    pixels = torch.empty(count * height * width, channels, device=images.device)
    _normalize_into(pixels, images, data)
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)


def _augmented(
    images: Tensor, data: ImageData, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Augment and normalize uint8 [B, 3, H, W] -> float32 [B, 3, H, W], channels last."""
    if augmentation.crop_scale is not None:
        images = _resized_crops(images, augmentation.crop_scale, generator)
    if augmentation.randaugment:
        images = _randaugmented(images, data, augmentation.randaugment, generator)
    if augmentation.trivialaugment:
        images = _trivialaugmented(images, data, generator)
    x = _shifted(images, data, augmentation, generator)
    if augmentation.random_erasing:
        x = _erased(x, augmentation.random_erasing, generator)
    return x


def _shifted(
    images: Tensor, data: ImageData, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Shift, flip and normalize uint8 [B, 3, H, W] -> float32 [B, 3, H, W], channels last."""
    side = images.shape[-1]
    padding = augmentation.crop_padding if augmentation.crop_scale is None else 0
    padding = (side + _PADDING_SHARE // 2) // _PADDING_SHARE if padding is None else padding
    flip = data.flip if augmentation.flip is None else augmentation.flip
    if not padding and not flip:
        return _normalized(images, data)
    offsets = torch.randint(-padding, padding + 1, (2, len(images), 1), generator=generator)
    mirrored = torch.zeros(len(images), 1, dtype=torch.bool)
    if flip:
        mirrored = torch.rand(len(images), 1, generator=generator) < 0.5
    offsets, mirrored = (on_device(drawn, images.device) for drawn in (offsets, mirrored))
    out = torch.empty(len(images), side, side, images.shape[1], device=images.device)
    # a few large images at a time, so that intermediate results stay in the processor's cache
    count = max(1, _PIXELS_AT_ONCE // side**2)
    for start in range(0, len(images), count):
        part = slice(start, start + count)
        places = _source_pixels(side, offsets[:, part], mirrored[part])
        pixels = torch.empty(len(places) + 1, images.shape[1], device=images.device)
        _normalize_into(pixels[:-1], images[part], data)
        pixels[-1] = 0  # outside the image: the mean
        torch.index_select(pixels, 0, places, out=out[part].view(len(places), -1))
    return out.permute(0, 3, 1, 2)


def _source_pixels(side: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Return the index of the source pixel of every crop pixel, int64 [B*H*W]; B*H*W: outside.

    `offsets`: int64 [2, B, 1], down and right; `mirrored`: bool [B, 1].
    """
    count, device = len(mirrored), offsets.device
    rows = torch.arange(side, device=device) + offsets[0]  # [B, H]
    columns = torch.arange(side, device=device).expand(count, side)
    columns = torch.where(mirrored, side - 1 - columns, columns) + offsets[1]  # [B, W]
    none = count * side * side
    starts = (torch.arange(count, device=device)[:, None] * side + rows) * side
    # If row or column is outside the image, the sum is at least `none`, whatever the other is.
    starts = starts.masked_fill((rows < 0) | (rows >= side), none)
    columns = columns.masked_fill((columns < 0) | (columns >= side), none)
    return (starts[:, :, None] + columns[:, None, :]).clamp_(max=none).flatten()


def _randaugmented(
    images: Tensor, data: ImageData, operations: int, generator: torch.Generator
) -> Tensor:
    """Apply RandAugment to uint8 [B, 3, H, W], with new operations for every 16 images."""
    from mobilenas.core._torchvision import transforms

    transform = transforms.RandAugment(operations, fill=_fill(data))
    with _seeded(generator):
        groups = [transform(group) for group in images.split(_RANDAUGMENT_GROUP)]
    return torch.cat(groups)


def _resized_crops(images: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Apply RandomResizedCrop to uint8 [B, 3, H, W], with aspect ratios from 3:4 to 4:3."""
    from mobilenas.core._torchvision import transforms

    crop = transforms.RandomResizedCrop(images.shape[-1], scale=(scale, 1.0))
    with _seeded(generator):
        return torch.stack([crop(image) for image in images])


def _trivialaugmented(images: Tensor, data: ImageData, generator: torch.Generator) -> Tensor:
    """Apply TrivialAugment to uint8 [B, 3, H, W]."""
    from mobilenas.core._torchvision import transforms

    transform = transforms.TrivialAugmentWide(fill=_fill(data))
    with _seeded(generator):
        return torch.stack([transform(image) for image in images])


def _erased(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set a random rectangle of normalized float32 [B, 3, H, W] to the mean."""
    from mobilenas.core._torchvision import transforms

    erase = transforms.RandomErasing(probability, inplace=True)
    with _seeded(generator):
        for image in x:
            erase(image)
    return x


def _mixed(
    x: Tensor,
    labels: Tensor,
    classes: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Apply Mixup or CutMix to float32 [B, 3, H, W]; labels become float32 [B, classes]."""
    alphas = {"MixUp": float(augmentation.mixup), "CutMix": float(augmentation.cutmix)}
    chosen = [name for name, alpha in alphas.items() if alpha]
    if not chosen:
        return x, labels
    from mobilenas.core._torchvision import transforms

    with _seeded(generator):
        name = chosen[int(torch.randint(len(chosen), ()))]
        mix = getattr(transforms, name)(alpha=alphas[name], num_classes=classes)
        mixed, shares = mix(x, labels)
    return mixed, shares


def _fill(data: ImageData) -> list[int]:
    """Return the fill colour outside transformed images: the mean, in 0..255."""
    return [round(255 * mean) for mean in data.mean]


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed the global CPU generator, which torchvision uses, from `generator` for a while."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
