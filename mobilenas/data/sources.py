"""The sources: scikit-learn's digits, CIFAR, and folders of images."""

import hashlib
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilenas.core.errors import DataError
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.settings import counted
from mobilenas.data.folder import load_folder
from mobilenas.data.image_data import Check, ImageData
from mobilenas.data.layout import FOLDER_SPLITS
from mobilenas.data.moments import image_moments, mean_and_std
from mobilenas.data.repeats import digest, find_repeats
from mobilenas.data.settings import BUILT_IN_SOURCES, DataSettings
from mobilenas.data.splits import Split, stratified_parts
from mobilenas.data.stores import TensorStore, resize_square

_DIGITS_SHARES = (0.2, 0.2)
_CIFAR_VAL_SHARE = 0.1
_CHUNK = 1024
_MAX_LISTED = 200


def load_data(
    settings: DataSettings,
    reporter: Reporter | None = None,
    check: Check | None = None,
) -> ImageData:
    """Read the source into three splits and report its notes; DataError if it cannot be used.

    `check` is called before the images of a folder are decoded. It may raise, or return another
    size to decode to.
    """
    settings.check_source()
    reporter = reporter or NullReporter()
    if settings.source == "digits":
        data = _load_digits(settings)
    elif settings.source in ("cifar10", "cifar100"):
        data = _load_cifar(settings)
    else:
        data = load_folder(settings, reporter, check)
    if check is not None and settings.source in BUILT_IN_SOURCES and (side := check(data)):
        return load_data(replace(settings, image_size=side), reporter)
    data = replace(
        data,
        notes=(*data.notes, *_class_notes(data)),
        mean=settings.mean or data.mean,
        std=settings.std or data.std,
    )
    for note in data.notes:
        reporter.info(note)
    return data


def _class_notes(data: ImageData) -> list[str]:
    """Return remarks that list the classes, and those that a split lacks."""
    counts = data.class_counts()
    images = {label: "/".join(map(str, of_split.values())) for label, of_split in counts.items()}
    if alike := len(set(images.values())) == 1:
        listed = list(images)
    else:
        listed = [f"{label} {number}" for label, number in images.items()]
    if len(listed) > _MAX_LISTED:
        listed[_MAX_LISTED:] = [f"and {len(listed) - _MAX_LISTED} more"]
    each = f": {next(iter(images.values()))} each" if alike else ""
    notes = [f"{len(counts)} classes (images in train/val/test{each}): {', '.join(listed)}"]
    for split in ("val", "test"):
        lacking = [label for label, of_split in counts.items() if not of_split[split]]
        if lacking:
            notes.append(
                f"{split} has no images of {counted(len(lacking), 'class')}: first {lacking[0]}"
            )
    return notes


def _load_digits(settings: DataSettings) -> ImageData:
    try:
        digits = importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise DataError(
            'digits come from scikit-learn, which is missing: pip install "mobilenas[demo]"'
        ) from error
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8], values were 0..16
    pixels = torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return _in_memory(
        settings,
        classes=tuple(str(name) for name in digits.target_names),
        pixels=pixels,
        labels=labels,
        parts=stratified_parts(labels, _DIGITS_SHARES, settings.split_seed),
        flip=False,
        split_rule=f"60/20/20 % of each class, seed {settings.split_seed}",
    )


def _load_cifar(settings: DataSettings) -> ImageData:
    from mobilenas.core._torchvision import datasets

    root = settings.data_root or Path("data")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[settings.source]
    try:
        fitted = kind(root=root, train=True, download=settings.download)
        held_out = kind(root=root, train=False, download=False)
    except OSError as error:
        raise DataError(f"cannot fetch or read {settings.source} in {root}: {error}") from error
    except RuntimeError as error:  # torchvision's error for missing files and wrong checksums
        raise DataError(
            f"there is no complete copy of {settings.source} in {root}; pass --download to fetch it"
        ) from error
    hwc = np.concatenate((fitted.data, held_out.data))  # [N, 32, 32, 3]
    labels = torch.tensor([*fitted.targets, *held_out.targets], dtype=torch.int64)
    train, val = stratified_parts(
        labels[: len(fitted.targets)], (_CIFAR_VAL_SHARE,), settings.split_seed
    )
    return _in_memory(
        settings,
        classes=tuple(fitted.classes),
        pixels=torch.from_numpy(np.ascontiguousarray(hwc.transpose(0, 3, 1, 2))),
        labels=labels,
        parts=(train, val, torch.arange(len(fitted.targets), len(labels))),
        flip=True,
        split_rule="test as published; val is 10 % of each class of the published training set, "
        f"seed {settings.split_seed}",
    )


def _tensor_fingerprint(tensors: tuple[Tensor, ...]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _in_memory(
    settings: DataSettings,
    *,
    classes: tuple[str, ...],
    pixels: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, ...],
    flip: bool,
    split_rule: str,
) -> ImageData:
    own_size = pixels.shape[-1]
    size = settings.image_size or own_size
    # Statistics before resizing, which hardly changes them and may happen later.
    mean, std = mean_and_std(image_moments(pixels[parts[0]].numpy()), own_size * own_size)
    fingerprint = _tensor_fingerprint((pixels, labels, *parts))
    notes = [f"splits of {settings.source}: {split_rule}"]
    digests = [digest(image) for image in pixels.numpy()]
    if size != own_size:
        notes.append(f"{len(pixels)} images of {own_size}x{own_size} are resized to {size}x{size}")
        if len(pixels) * 3 * size * size <= settings.memory_limit_bytes:
            resized = [resize_square(chunk, size) for chunk in pixels.split(_CHUNK)]
            pixels = torch.cat(resized)
    by_split = dict(zip(FOLDER_SPLITS, parts, strict=True))
    names = [f"image {number}" for number in range(len(labels))]
    repeated, repeats = find_repeats(digests, labels.tolist(), by_split, names)
    store = TensorStore(pixels, size)
    train, val, test = (Split(store, part, labels[part]) for part in parts)
    return ImageData(
        name=settings.source,
        classes=classes,
        image_size=size,
        mean=mean,
        std=std,
        flip=flip if settings.flip is None else settings.flip,
        train=train,
        val=val,
        test=test,
        fingerprint=fingerprint,
        notes=(*notes, *repeats),
        split_rule=split_rule,
        repeated=repeated,
    )
