"""Measurements of a kit by a browser, and what to measure next."""

from datetime import UTC, datetime
from pathlib import Path

from mobilenas.core.errors import MobileNASError
from mobilenas.core.records import Json
from mobilenas.core.settings import readable
from mobilenas.latency.cache import Rounds
from mobilenas.latency.drift import MIN_MODELS, remove_drift, slowdowns
from mobilenas.latency.kit import KitModel, Manifest, Results
from mobilenas.latency.kit_runner import Timing
from mobilenas.latency.measured import Failed, Measured
from mobilenas.web.records import Round, Work

MAX_ROUNDS, TOLERANCE = 48, 0.02
"""As in a kit's runner."""
_WINDOW, _WINDOW_FLOPS = 24, 2_000_000_000
"""Maximum number and FLOPs of the models loaded at once, as phones have little memory."""
_HOT = 1.25
"""A device that is this much slower than usual in two rounds must cool down."""
_REST_S, _MAX_RESTS = 20, 3


class StaleError(MobileNASError):
    """A round that was posted before, or is out of date."""


class Measurement:
    """The finished rounds of a device, and the models that need more.

    A round has the models of a window, which moves on as their medians become known, and reference
    blocks, which show the current speed of the device.
    """

    def __init__(self, manifest: Manifest, log: Path, *, rounds: int = 16) -> None:
        self._manifest, self.log = manifest, log
        self._limits = (rounds, max(rounds, MAX_ROUNDS), TOLERANCE)
        # By checksum, a random order, so that a slow hour affects all kinds of models.
        self._models = {model.sha256: model for model in _sorted(manifest.models)}
        self._rounds = Rounds(log)
        self._timings = self._rounds.among(self._models.keys())
        self._done: set[str] = set()
        self._rests = 0
        self._update()

    @property
    def open(self) -> list[str]:
        """Checksums of the models that need another round."""
        return [key for key in self._models if key not in self._done and not self._reason(key)]

    def work(self, ended: str = "") -> Work:
        """Return what to time next."""
        models = self._window()
        needed = self._limits[0]
        counts = [
            needed if self._reason(key) or key in self._done else len(self._times.get(key, ()))
            for key in self._models
        ]
        return Work(
            number=len(self._timings),
            done=len(self._models) - len(self.open),
            total=len(self._models),
            share=sum(min(needed, count) for count in counts) / (needed * len(counts)),
            references=self._references if models else [],
            models=[key for key in models if key not in self._references],
            slowdown=self._slowdowns[-1] if self._slowdowns else 1.0,
            rest_s=_REST_S if 0 < self._rests <= _MAX_RESTS else 0,
            ended=ended,
        )

    def add(self, posted: Round) -> None:
        """Save a round at once; StaleError if it is not the next one."""
        work = self.work()
        if posted.number != work.number:
            raise StaleError(f"number is {posted.number}; the next round is {work.number}")
        asked = {*work.models, *work.references}
        again = {key for key in posted.failed if self._reason(key)}  # whose answer was lost
        if unknown := (posted.ns.keys() | posted.failed.keys()) - asked - again:
            raise MobileNASError(f"{min(unknown)} is not a model of this round")
        if posted.failed:  # the page reloads the others; times beside failed models are discarded
            for key, reason in posted.failed.items():
                self._rounds.fail(key, readable(reason))
        elif missing := asked - posted.ns.keys():
            raise MobileNASError(f"ns lacks {min(missing)}, a model of this round")
        else:
            timings = {key: Timing(ns, key in posted.disturbed) for key, ns in posted.ns.items()}
            self._rounds.add(timings)
            self._timings.append(timings)
        self._update()
        if not posted.failed:
            self._rests = self._rests + 1 if min(self._slowdowns[-2:]) > _HOT else 0

    def results(self, device: Json, runtime: str, provider: str, threads: int) -> Results:
        """Return the times of all models, corrected for changes of the device's speed."""
        times: dict[str, Measured | Failed] = {}
        for model in self._manifest.models:
            reason = self._reason(model.sha256)
            times[model.file] = Failed(reason=reason) if reason else self._measured(model.sha256)
        return Results(
            manifest=self._manifest,
            device=device,
            runtime=runtime,
            provider=provider,
            threads=threads,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            times=times,
        )

    def forget(self) -> None:
        """Delete the log, after the profile has been written."""
        self.log.unlink(missing_ok=True)

    def _reason(self, key: str) -> str | None:
        return self._rounds.failure(key)

    def _window(self) -> list[str]:
        window: list[str] = []
        flops = 0
        for key in self.open:
            flops += self._models[key].flops
            if window and (len(window) == _WINDOW or flops > _WINDOW_FLOPS):
                break
            window.append(key)
        return window

    def _update(self) -> None:
        """Update references, drift and finished models; a finished model stays finished."""
        self._references = _references([m for k, m in self._models.items() if not self._reason(k)])
        plain = [{key: float(timing.ns) for key, timing in t.items()} for t in self._timings]
        self._slowdowns = slowdowns(plain, self._references)
        self._times = remove_drift(plain, self._references)
        self._done |= {
            key
            for key, times in self._times.items()
            if key not in self._done
            and len(times) >= self._limits[0]
            and self._measured(key).suffices(*self._limits)
        }

    def _measured(self, key: str) -> Measured:
        marks = [timings[key].disturbed for timings in self._timings if key in timings]
        return Measured.of(self._times[key], marks)


def _sorted(models: tuple[KitModel, ...]) -> list[KitModel]:
    return sorted(models, key=lambda model: model.sha256)


def _references(models: list[KitModel]) -> list[str]:
    """Return the checksums of reference blocks, from small to large."""
    blocks = sorted(
        (model for model in models if model.key.startswith("block")),
        key=lambda model: (model.flops, model.sha256),
    )
    places = (len(blocks) * (2 * n + 1) // (2 * MIN_MODELS) for n in range(MIN_MODELS))
    return list(dict.fromkeys(blocks[place].sha256 for place in places if blocks))
