"""Mean and standard deviation from exact sums, so they do not depend on the order of images."""

import numpy as np
from numpy.typing import NDArray

from mobilenas.data.image_files import Pixels

Moments = NDArray[np.float64]
"""[N, 3, 2]: sums of values and of squares for each image, integers below 2 ** 53."""

_CHUNK_VALUES = 2**22
_SMALLEST_STD = 1 / 255


def image_moments(images: Pixels) -> Moments:
    """Return sums of values and of squares: uint8 [B, 3, H, W] -> [B, 3, 2]."""
    # numpy, because torch's threads would compete with the decoding threads.
    moments = np.zeros((len(images), images.shape[1], 2))
    length = max(1, _CHUNK_VALUES // max(1, images[:1].size))
    for start in range(0, len(images), length):
        chunk = images[start : start + length]
        values = chunk.reshape(*chunk.shape[:2], -1).astype(np.float64)
        moments[start : start + length, :, 0] = values.sum(-1)
        moments[start : start + length, :, 1] = np.einsum("bci,bci->bc", values, values)
    return moments


def mean_and_std(
    moments: Moments, pixels_per_image: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of each channel, in 0..1, from [N, 3, 2]; std is at least 1 / 255."""
    mean, square = moments.sum(0).T / (len(moments) * pixels_per_image)  # [3] each
    std = np.sqrt(np.maximum(square - mean**2, 0)) / 255
    return tuple((mean / 255).tolist()), tuple(np.maximum(std, _SMALLEST_STD).tolist())
