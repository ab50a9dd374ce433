"""Published figures of known networks, for reference only, apart from our measurements.

Every network has its own recipe, from 90 to over a thousand epochs and with or without
distillation, so the figures do not show which network is better.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network with the figures of its paper, or of the later paper that `source` names."""

    name: str
    """Name of the network, at width 1 if it has widths."""
    top1: float
    """Percentage of ImageNet's validation images."""
    flops: int
    """Multiply-adds, with as many digits as the source gives."""
    params: int | None
    """Trainable parameters, likewise; None if the source gives none."""
    image_size: int | None
    """Side in pixels; None if the source gives none."""
    source: str
    """Paper and table."""


PUBLISHED: tuple[Published, ...] = (
    Published(
        name="MobileNetV1",
        top1=70.6,
        flops=569_000_000,
        params=4_200_000,
        image_size=224,
        source="arXiv:1704.04861, Table 6",
    ),
    Published(
        name="MobileNetV2",
        top1=72.0,
        flops=300_000_000,
        params=3_400_000,
        image_size=224,
        source="arXiv:1801.04381, Table 4",
    ),
    # earlier versions of the paper have 66 M and 2.9 M; the network counts 56.5 M and 2.54 M
    Published(
        name="MobileNetV3-Small",
        top1=67.4,
        flops=56_000_000,
        params=2_500_000,
        image_size=224,
        source="arXiv:1905.02244, Table 3",
    ),
    Published(
        name="MobileNetV3-Large",
        top1=75.2,
        flops=219_000_000,
        params=5_400_000,
        image_size=224,
        source="arXiv:1905.02244, Table 3",
    ),
    Published(
        name="MnasNet-A1",
        top1=75.2,
        flops=312_000_000,
        params=3_900_000,
        image_size=224,
        source="arXiv:1807.11626, Table 1",
    ),
    Published(
        name="FBNet-C",
        top1=74.9,
        flops=375_000_000,
        params=5_500_000,
        image_size=224,
        source="arXiv:1812.03443, Table 3",
    ),
    # its own paper has the top-1 and a latency, no multiply-adds
    Published(
        name="ProxylessNAS (mobile)",
        top1=74.6,
        flops=320_000_000,
        params=4_000_000,
        image_size=224,
        source="arXiv:1905.02244, Table 3",
    ),
    # the resolution is part of what is searched
    Published(
        name="OFA",
        top1=76.0,
        flops=230_000_000,
        params=None,
        image_size=None,
        source="arXiv:1908.09791, Table 1",
    ),
    Published(
        name="OFA, 75 epochs tuned",
        top1=76.9,
        flops=230_000_000,
        params=None,
        image_size=None,
        source="arXiv:1908.09791, Table 1",
    ),
    # its table has tenths of a G and no distillation
    Published(
        name="MobileNetV4-Conv-S",
        top1=73.8,
        flops=200_000_000,
        params=3_800_000,
        image_size=224,
        source="arXiv:2404.10518, Table 6",
    ),
    Published(
        name="MobileNetV4-Conv-M",
        top1=79.9,
        flops=1_000_000_000,
        params=9_200_000,
        image_size=256,
        source="arXiv:2404.10518, Table 6",
    ),
)
"""Networks for phones, by date of publication."""


@dataclass(frozen=True, kw_only=True)
class PublishedLatency:
    """Latency of a published network on a phone, measured by others."""

    network: str
    """A name of `PUBLISHED`."""
    device: str
    """The phone."""
    runtime: str
    """Runtime and processor."""
    precision: str
    """`float`, or the bits of weights and activations."""
    latency_ms: float
    """Latency of one image."""
    source: str
    """File and its release."""


_PHONES = ("Samsung Galaxy S24", "Samsung Galaxy S25")
# Copyright Qualcomm Technologies, Inc. and/or its subsidiaries, BSD-3-Clause
_AI_HUB = {
    ("MobileNetV2", "mobilenet_v2"): {
        ("TFLite, NPU", "float"): (0.593, 0.451),
        ("ONNX Runtime, NPU", "float"): (0.523, 0.465),
        ("TFLite, NPU", "w8a8"): (0.289, 0.214),
    },
    ("MobileNetV3-Small", "mobilenet_v3_small"): {
        ("TFLite, NPU", "float"): (0.557, 0.435),
        ("ONNX Runtime, NPU", "float"): (0.515, 0.398),
        ("QNN, NPU", "w8a16"): (0.544, 0.375),
    },
    ("MobileNetV3-Large", "mobilenet_v3_large"): {
        ("TFLite, NPU", "float"): (0.682, 0.520),
        ("ONNX Runtime, NPU", "float"): (0.682, 0.528),
        ("QNN, NPU", "w8a16"): (0.659, 0.456),
    },
}
LATENCIES: tuple[PublishedLatency, ...] = tuple(
    PublishedLatency(
        network=network,
        device=phone,
        runtime=runtime,
        precision=precision,
        latency_ms=latency_ms,
        source=f"Qualcomm AI Hub Models 0.46.1, {file}/perf.yaml",
    )
    for (network, file), figures in _AI_HUB.items()
    for (runtime, precision), latencies in figures.items()
    for phone, latency_ms in zip(_PHONES, latencies, strict=True)
)
"""A selection: two common phones; float, and the lowest precision available."""
