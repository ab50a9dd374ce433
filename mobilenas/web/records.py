"""What the pages post, and what they get as an answer."""

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
    """A page opens its session; it is what says what the device is."""

    token: Text = ""
    """From the URL; a page that is loaded again has a cookie instead."""
    browser: Text
    system: Text
    model: Text
    cores: Annotated[int, Meta(ge=1, le=4096)]
    isolated: bool
    """Whether the browser lets the page have threads."""
    gpu: Text = ""
    """The adapter of WebGPU, where the page is to run models on it and there is one."""


class Opened(Record, frozen=True, kw_only=True):
    """The answer."""

    title: str
    """What the session is for, such as the profile's name."""
    runtime: str
    threads: int
    threads_requested: int


class Round(Record, frozen=True, kw_only=True):
    """Times of one round, or models that do not run, by the checksums of the models."""

    number: Count
    """How many rounds there were before."""
    ns: Annotated[dict[Sha256, Nanoseconds], Meta(max_length=_MAX_MODELS)]
    disturbed: Annotated[list[Sha256], Meta(max_length=_MAX_MODELS)]
    """Models during whose timing the device did something else."""
    failed: Annotated[dict[Sha256, Reason], Meta(max_length=_MAX_MODELS)]


class Work(Record, frozen=True, kw_only=True):
    """What to time next, in one round; no models: all are measured."""

    number: int
    done: int
    total: int
    share: Share
    """Of all rounds that are needed at least."""
    references: list[str]
    models: list[str]
    slowdown: float
    """How much slower than usual the device was in the last round."""
    rest_s: int
    """For how long it is to cool before the next."""
    ended: str
    """What came of it, once nothing is left."""


class TriedModel(Record, frozen=True, kw_only=True):
    """A file that a page classifies images with, and what it takes to do so."""

    name: str
    sha256: str
    size_bytes: int
    top1: float
    """Percent, on the test images of the run."""
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    labels: Sequence[str]


class Trial(Record, frozen=True, kw_only=True):
    """What the page of a run has to show."""

    models: list[TriedModel]
    notes: list[str]
    """What is not there, and which command makes it."""


class Tried(Record, frozen=True, kw_only=True):
    """Nanoseconds of single images, by the checksums of the models; preparing them counts."""

    ns: Annotated[
        dict[Sha256, Annotated[list[Nanoseconds], Meta(min_length=1, max_length=2000)]],
        Meta(min_length=1, max_length=20),
    ]


class BrowserLatency(Record, frozen=True, kw_only=True):
    """What one file took for an image."""

    file: str
    sha256: str
    images: Some
    median_ms: Amount
    interval_ms: Amount
    p90_ms: Amount
    images_per_second: Amount


class BrowserMeasurement(Record, frozen=True, kw_only=True):
    """A line of web.jsonl in a run."""

    date: str
    device: dict[str, str | int]
    runtime: str
    threads: Some
    latencies: dict[str, BrowserLatency]


class Kept(Record, frozen=True, kw_only=True):
    """The answer to a measurement."""

    message: str
