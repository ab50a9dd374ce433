"""Records that pages post, and the answers."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from mobilenas.core.records import Amount, Count, Record, Share, Some

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Nanoseconds = Annotated[int, Meta(ge=1, le=10**13)]
Text = Annotated[str, Meta(max_length=400)]
Reason = Annotated[str, Meta(min_length=1, max_length=400)]
_MAX_MODELS = 200


class Opening(Record, frozen=True, kw_only=True):
    """A request of a page to open its session, which describes the device."""

    token: Text = ""
    """From the URL; a reloaded page has a cookie instead."""
    browser: Text
    system: Text
    model: Text
    cores: Annotated[int, Meta(ge=1, le=4096)]
    isolated: bool
    """Whether the page is cross-origin isolated, so may use threads."""
    gpu: Text = ""
    """WebGPU adapter, if the page should use WebGPU and there is one."""


class Opened(Record, frozen=True, kw_only=True):
    """The answer to `Opening`."""

    title: str
    """Title of the page, such as the profile's name."""
    runtime: str
    threads: int
    threads_requested: int


class Round(Record, frozen=True, kw_only=True):
    """Times of one round, or models that do not run, by checksum."""

    number: Count
    """Number of earlier rounds."""
    ns: Annotated[dict[Sha256, Nanoseconds], Meta(max_length=_MAX_MODELS)]
    disturbed: Annotated[list[Sha256], Meta(max_length=_MAX_MODELS)]
    """Models whose timing was disturbed."""
    failed: Annotated[dict[Sha256, Reason], Meta(max_length=_MAX_MODELS)]


class Work(Record, frozen=True, kw_only=True):
    """What to time in the next round; without models, everything is measured."""

    number: int
    done: int
    total: int
    share: Share
    """Completed share of the minimum number of rounds."""
    references: list[str]
    models: list[str]
    slowdown: float
    """Slowdown of the device in the last round, relative to usual."""
    rest_s: int
    """Seconds to cool down before the next round."""
    ended: str
    """The outcome, once everything is measured."""


class TriedModel(Record, frozen=True, kw_only=True):
    """A file with which a page classifies images, and its metadata."""

    name: str
    sha256: str
    size_bytes: int
    top1: float
    """Top-1 on the run's test images, in percent."""
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    labels: Sequence[str]


class Trial(Record, frozen=True, kw_only=True):
    """The content of a run's page."""

    models: list[TriedModel]
    notes: list[str]
    """Missing files, and the commands that make them."""


class Tried(Record, frozen=True, kw_only=True):
    """Nanoseconds per image, including preprocessing, by checksum of the model."""

    ns: Annotated[
        dict[Sha256, Annotated[list[Nanoseconds], Meta(min_length=1, max_length=2000)]],
        Meta(min_length=1, max_length=20),
    ]


class BrowserLatency(Record, frozen=True, kw_only=True):
    """Latency of a file in the browser."""

    file: str
    sha256: str
    images: Some
    median_ms: Amount
    interval_ms: Amount
    p90_ms: Amount
    images_per_second: Amount


class BrowserMeasurement(Record, frozen=True, kw_only=True):
    """A line of RUN/web.jsonl."""

    date: str
    device: dict[str, str | int]
    runtime: str
    threads: Some
    latencies: dict[str, BrowserLatency]


class Kept(Record, frozen=True, kw_only=True):
    """The answer to a measurement."""

    message: str
