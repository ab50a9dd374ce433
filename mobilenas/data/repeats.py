"""Finds duplicate images: in two splits, in two classes, or all of them."""

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from mobilenas.core.errors import DataError
from mobilenas.core.settings import counted
from mobilenas.data.image_files import Pixels
from mobilenas.data.layout import FOLDER_SPLITS


def digest(image: Pixels) -> bytes:
    """Return a hash of all pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def check_differ(digests: Sequence[bytes], source: str) -> None:
    """Raise if all images are identical."""
    if len(set(digests)) == 1:
        raise DataError(
            f"all {len(digests)} images of {source} have the same pixels once decoded: "
            "they do not differ, so nothing tells the classes apart"
        )


def find_repeats(
    digests: Sequence[bytes],
    labels: Sequence[int],
    parts: Mapping[str, Tensor],
    names: Sequence[str],
) -> tuple[dict[str, int], list[str]]:
    """Count images of val that are also in train, and of test in either; also return remarks."""
    first: dict[bytes, tuple[str, int]] = {}
    across: dict[str, list[str]] = {"val": [], "test": []}
    torn = []
    for split in FOLDER_SPLITS:
        for place in parts[split].tolist():
            other_split, other = first.setdefault(digests[place], (split, place))
            pair = f"{names[place]} is {names[other]}"
            if other_split != split:
                across[split].append(pair)
            if labels[other] != labels[place]:
                torn.append(pair)
    notes = [
        f"{counted(len(pairs), f'image of {split} is', f'images of {split} are')} also in another "
        f"split, which makes its accuracy look better: first {pairs[0]}"
        for split, pairs in across.items()
        if pairs
    ]
    if torn:
        notes.append(
            f"{counted(len(torn), 'image is', 'images are')} also in another class: first {torn[0]}"
        )
    return {split: len(pairs) for split, pairs in across.items()}, notes
