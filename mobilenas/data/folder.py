"""Loads folders and shards of images as three splits."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mobilenas.core.errors import DataError
from mobilenas.core.images import ImageFile, Member, PixelRange
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import counted, readable
from mobilenas.data.image_data import Check, ImageData, ImageKind
from mobilenas.data.image_index import ImageIndex
from mobilenas.data.layout import FOLDER_SPLITS
from mobilenas.data.listing import Entry, Listing, list_folder, way_out
from mobilenas.data.moments import Moments, mean_and_std
from mobilenas.data.patterns import WDS
from mobilenas.data.reading import choose_size, measure_range, read_headers, read_pixels
from mobilenas.data.repeats import check_differ, find_repeats
from mobilenas.data.settings import DataSettings
from mobilenas.data.shards import list_shards
from mobilenas.data.splits import Split, stratified_parts
from mobilenas.data.stores import FileStore, ImageStore, TensorStore

# of val and test each, if the folder lacks them
_SHARE = 0.15
# Search fits weights on one half of the training split and alphas on the other.
_SMALLEST_TRAIN = 2
# One character (`A`), a number (`65`), a code point (`U+0041`, `0x41`), or a code point and its
# character (`065_A`).
_CHARACTER = re.compile(
    r".|\d+|(?:U\+|0x)[0-9a-f]{2,6}|(?:U\+|0x)?[0-9a-f]{2,6}[_-].", re.IGNORECASE
)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Contents:
    """A folder's images without bad files."""

    entries: tuple[Entry, ...]
    """One per image, sorted by split, class and name."""
    store: ImageStore
    """The images of `entries`, in that order."""
    moments: Moments
    """[N, 3, 2]"""
    digests: tuple[bytes, ...]
    """Hash of the pixels of each image."""
    image_size: int
    """Side in pixels."""
    pixel_range: PixelRange | None
    """Values that become 0 and 255 in images of more than 8 bits."""
    notes: tuple[str, ...]
    """Remarks for the user on how they were read."""


def load_folder(
    settings: DataSettings,
    reporter: Reporter,
    check: Check | None = None,
) -> ImageData:
    """Read folders of splits or of classes, or shards; `find_layout` says which is which.

    `check` is called once classes and image size are known, before decoding. It may return another
    size.
    """
    if settings.source.startswith(WDS):
        listing = list_shards(settings.source, reporter)
    else:
        listing = list_folder(Path(settings.source))
    _check_types(listing, settings)
    _check_counts(listing, listing.entries)
    contents = _read(listing, settings, reporter, check)
    _check_counts(listing, contents.entries)
    check_differ(contents.digests, settings.source)
    number = {name: place for place, name in enumerate(listing.classes)}
    labels = torch.tensor([number[entry.label] for entry in contents.entries])
    parts, split_rule = _split(listing, contents.entries, labels, settings.split_seed)
    mean, std = mean_and_std(contents.moments[parts["train"].numpy()], contents.image_size**2)
    names = [readable(entry.name) for entry in contents.entries]
    repeated, repeats = find_repeats(contents.digests, labels.tolist(), parts, names)
    characters = all(_CHARACTER.fullmatch(name) for name in listing.classes)
    notes = (*listing.notes, f"splits of {listing.root}: {split_rule}", *contents.notes, *repeats)
    if settings.flip is None and characters:
        notes += ("no horizontal flips: class names look like characters or numbers",)
    train, val, test = (
        Split(contents.store, parts[name], labels[parts[name]]) for name in FOLDER_SPLITS
    )
    return ImageData(
        name=readable(settings.source),
        classes=listing.classes,
        image_size=contents.image_size,
        mean=mean,
        std=std,
        flip=not characters if settings.flip is None else settings.flip,
        train=train,
        val=val,
        test=test,
        fingerprint=_fingerprint(contents.entries, labels, parts),
        names=tuple(names),
        notes=notes,
        split_rule=split_rule,
        pixel_range=contents.pixel_range,
        repeated=repeated,
    )


def _check_types(listing: Listing, settings: DataSettings) -> None:
    """Raise if there are images of unsupported types."""
    if listing.unreadable and not settings.skip_bad_images:
        first, *others = listing.unreadable
        more = f" and {len(others)} more of such types are" if others else " is"
        raise DataError(
            f"{first}{more} not read; {way_out(first)}, or leave out with --skip-bad-images"
        )


def _check_counts(listing: Listing, entries: tuple[Entry, ...]) -> None:
    """Raise if a class has too few images for the splits, or a split is empty."""
    needed = _SMALLEST_TRAIN + len({"val", "test"} - set(listing.places))
    source = "train" if listing.places else ""
    place = listing.places.get(source, listing.root)
    counts = Counter(entry.label for entry in entries if entry.split == source)
    for name in listing.classes:
        if counts[name] < needed:
            hint = "" if counts[name] else "; remove the folder if it is not a class"
            raise DataError(
                f"class {name!r} in {place} has {counted(counts[name], 'usable image')}; "
                f"the splits need at least {needed}{hint}"
            )
    for split, where in listing.places.items():
        if not any(entry.split == split for entry in entries):
            raise DataError(f"{where} holds no usable image")


def _read(
    listing: Listing,
    settings: DataSettings,
    reporter: Reporter,
    check: Check | None,
) -> _Contents:
    skip = settings.skip_bad_images
    index = ImageIndex(listing, reporter)
    headers, bad = read_headers(
        [entry.path for entry in listing.entries], index=index, skip_bad=skip, reporter=reporter
    )
    size, notes = choose_size(headers, settings.image_size)
    kind = ImageKind(name=settings.source, classes=listing.classes, image_size=size)
    if check is not None and (side := check(kind)):
        size, notes = choose_size(headers, side)
    pixel_range, remarks, damaged = measure_range(headers, skip_bad=skip, reporter=reporter)
    bad |= damaged
    entries = [entry for entry in listing.entries if entry.path not in bad]
    paths = [entry.path for entry in entries]
    keep = len(paths) * 3 * size * size <= settings.memory_limit_bytes
    read = read_pixels(
        paths, size, pixel_range, keep=keep, index=index, skip_bad=skip, reporter=reporter
    )
    bad |= read.bad
    good = [place for place, path in enumerate(paths) if path not in read.bad]
    store: ImageStore
    if read.pixels is None:
        notes.append(f"{len(good)} images are decoded as they are needed: too many for memory")
        index.write()
        store = FileStore(tuple(paths[place] for place in good), size, pixel_range)
    else:
        store = TensorStore(torch.from_numpy(read.pixels[good] if read.bad else read.pixels), size)
    return _Contents(
        entries=tuple(entries[place] for place in good),
        store=store,
        moments=read.moments[good],
        digests=tuple(read.digests[place] for place in good),
        image_size=size,
        pixel_range=pixel_range,
        notes=(*notes, *remarks, *_skipped("bad", bad), *_skipped("unread", listing.unreadable)),
    )


def _skipped(kind: str, files: Collection[ImageFile]) -> list[str]:
    count = counted(len(files), f"{kind} image")
    return [f"{count} skipped: first {min(map(str, files))}"] if files else []


def _split(
    listing: Listing, entries: tuple[Entry, ...], labels: Tensor, seed: int
) -> tuple[Mapping[str, Tensor], str]:
    """Return the indices in `entries` of each split's images, and the rule in words."""
    if not listing.places:
        parts = stratified_parts(labels, (_SHARE, _SHARE), seed)
        named = dict(zip(FOLDER_SPLITS, parts, strict=True))
        return named, f"70/15/15 % of each class by sorted names, seed {seed}"
    given = {
        split: torch.tensor([place for place, entry in enumerate(entries) if entry.split == split])
        for split in listing.places
    }
    drawn = [split for split in FOLDER_SPLITS if split not in given]
    if not drawn:
        return given, listing.rule
    train = given["train"]
    parts = stratified_parts(labels[train], (_SHARE,) * len(drawn), seed)
    named = given | {name: train[part] for name, part in zip(("train", *drawn), parts, strict=True)}
    shares = " and ".join(f"{split} is 15 % of each class of train" for split in drawn)
    return named, f"{listing.rule}; {shares}, seed {seed}"


def _fingerprint(entries: tuple[Entry, ...], labels: Tensor, parts: Mapping[str, Tensor]) -> str:
    """Return the sha256 of each split's file names below the folder, sizes in bytes, and labels."""
    digest = hashlib.sha256()
    for split in FOLDER_SPLITS:
        for place in parts[split].tolist():
            entry = entries[place]
            file = entry.path
            size = file.size if isinstance(file, Member) else file.stat().st_size
            line = (split, entry.name, size)
            digest.update(repr((*line, int(labels[place]))).encode())
    return digest.hexdigest()
