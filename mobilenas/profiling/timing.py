"""Latency of ONNX files, measured side by side in one process of their own."""

from dataclasses import dataclass
from pathlib import Path

from mobilenas.errors import FileError
from mobilenas.profiling.meter import Failed, Measured, measure
from mobilenas.profiling.session import PROVIDER


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one model takes for one input."""

    median_ms: float
    """Median over the rounds."""
    minimum_ms: float
    """Fastest round: the least disturbed one."""
    spread_ms: float
    """Third quartile minus first quartile."""
    rounds: int
    """Rounds that were measured; fewer than asked for where the time was over."""
    threads: int
    """Threads of onnxruntime."""
    provider: str
    """onnxruntime's execution provider."""


def time_models(
    paths: list[Path],
    *,
    threads: int = 1,
    rounds: int = 32,
    warmup: int = 5,
    limit_s: float = 300.0,
) -> list[Timing]:
    """Time models in interleaved rounds, so that drift hits all alike; FileError names a bad file.

    No round begins after `limit_s` seconds; `Timing.rounds` says how many there were.
    """
    found = measure(
        {str(path): path for path in paths},
        threads=threads,
        rounds=rounds,
        most_rounds=rounds,
        warmup=warmup,
        limit_s=limit_s,
    )
    return [_timing(path, found[str(path)], threads) for path in paths]


def _timing(path: Path, found: Measured | Failed, threads: int) -> Timing:
    if isinstance(found, Failed):
        raise FileError(f"{path} {found.reason}")
    return Timing(
        median_ms=found.median_ms,
        minimum_ms=found.minimum_ms,
        spread_ms=found.spread_ms,
        rounds=found.rounds,
        threads=threads,
        provider=PROVIDER,
    )
