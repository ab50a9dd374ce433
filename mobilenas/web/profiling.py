"""`profile serve`: serves a kit to a browser, and makes a profile from its times."""

import hashlib
import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path

from mobilenas import __version__
from mobilenas.core.errors import MobileNASError
from mobilenas.core.files import inside
from mobilenas.core.progress import NullReporter, Reporter
from mobilenas.core.settings import to_plain
from mobilenas.latency.cache import Cache, fingerprint
from mobilenas.latency.kit import MANIFEST_FILE, profile_of, read_manifest, write_kit
from mobilenas.latency.profile import Profile
from mobilenas.latency.units import MeasuredSpace
from mobilenas.onnx import OPSET
from mobilenas.web.device import device_of, threads_of
from mobilenas.web.measurement import Measurement, StaleError
from mobilenas.web.records import Opened, Opening, Round, Work
from mobilenas.web.runtime import RUNTIME
from mobilenas.web.settings import Backend, ServeSettings
from mobilenas.web.site import RefusalError, Site


def kit_of(
    spaces: Mapping[str, MeasuredSpace], *, networks: int, seed: int, reporter: Reporter
) -> Path:
    """Return the folder of a kit of these spaces, written on first use."""
    said = [to_plain(dict(spaces)), networks, seed, OPSET, __version__]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    folder = Cache().folder.parent / "kits" / key
    if not (folder / MANIFEST_FILE).exists():
        write_kit(spaces, folder, networks=networks, seed=seed, reporter=reporter)
    return folder


def check_backend(backend: Backend, precisions: Collection[str], threads: int) -> None:
    """Raise unless the backend itself runs models of these precisions with these threads."""
    if backend == "webgpu" and "int8" in precisions:
        raise MobileNASError(
            "int8 does not go with --backend webgpu: onnxruntime-web would run it on the processor"
        )
    if backend == "webgpu" and threads > 1:
        raise MobileNASError(
            f"--threads {threads} does not go with --backend webgpu: a GPU has no such threads"
        )


class Profiling:
    """A kit, the page that measures it, and the results."""

    def __init__(
        self,
        kit: Path,
        settings: ServeSettings,
        *,
        name: str,
        threads: int = 1,
        rounds: int = 16,
        device: str = "",
        command: str = "",
    ) -> None:
        self._manifest = read_manifest(kit / MANIFEST_FILE)
        self._backend = settings.backend
        check_backend(self._backend, self._manifest.measured.keys(), threads)
        self._name, self._threads, self._rounds = name, threads, rounds
        self._device_name, self._command = device, command
        self._idle_s = settings.idle
        self._reporter: Reporter = NullReporter()
        self._measurement: Measurement | None = None
        self._device: dict[str, str | int] = {}
        self._used_threads = 1
        self._error: MobileNASError | None = None
        self._profile: Profile | None = None
        self.site = Site("profile.html", settings)
        self.site.opening(Opening, self._open)
        self.site.get("/work", lambda _: self._work())
        self.site.models(
            {m.sha256: inside(kit, m.file, kit / MANIFEST_FILE) for m in self._manifest.models}
        )
        self.site.post("/rounds", Round, self._add)

    async def serve(self, reporter: Reporter) -> tuple[Profile, Measurement]:
        """Serve until everything is measured; MobileNASError if that fails."""
        self._reporter = reporter
        reporter.start("measuring", len(self._manifest.models))
        if not await self.site.serve():
            raise MobileNASError(
                f"no request from a page in {self._idle_s} s; the same command resumes"
            )
        if self._error:
            raise self._error
        assert self._profile and self._measurement  # the site ended without error
        return self._profile, self._measurement

    def _open(self, opening: Opening) -> Opened:
        self._used_threads = threads_of(opening, self._threads)
        self._device = device_of(opening, self._device_name)
        said = self._device | {"runtime": RUNTIME, "threads": self._used_threads}
        place = "WebAssembly"
        if self._backend == "webgpu":
            if not opening.gpu:
                raise self._refuse()
            said["provider"] = self._backend
            place = f"WebGPU on {self._device['gpu']}"
        log = Cache().folder / f"web-{self._manifest.kit}-{fingerprint(said)}.jsonl"
        if self._measurement is None or self._measurement.log != log:
            self._measurement = Measurement(self._manifest, log, rounds=self._rounds)
        self._reporter.info(f"{self._device['cpu']}: {self._device['browser']}")
        return Opened(
            title=self._name,
            runtime=f"{RUNTIME}, {place}",
            threads=self._used_threads,
            threads_requested=self._threads,
        )

    def _refuse(self) -> RefusalError:
        """End the site, because no other backend can replace WebGPU."""
        self._error = RefusalError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "this browser gives the page no WebGPU adapter; it may lack WebGPU, which also needs a "
            "page of HTTPS or of the device itself (localhost)",
        )
        self.site.end()
        return self._error

    def _work(self) -> Work:
        assert self._measurement is not None  # the session is open
        if self._measurement.open:
            return self._measurement.work()
        return self._measurement.work(self._finish(self._measurement))

    def _add(self, posted: Round) -> Work:
        assert self._measurement is not None  # the session is open
        try:
            self._measurement.add(posted)
        except StaleError as error:
            raise RefusalError(HTTPStatus.CONFLICT, str(error)) from error
        work = self._work()
        self._reporter.step(work.done, {})
        return work

    def _finish(self, measurement: Measurement) -> str:
        """Make the profile; return a message with the outcome."""
        try:
            results = measurement.results(
                dict(self._device), RUNTIME, self._backend, self._used_threads
            )
            self._profile = profile_of(results, self._name, self._command)
        except MobileNASError as error:  # both page and command show it
            self._error = error
        self.site.end()
        return str(self._error or f"The computer now has the profile {self._name}.")
