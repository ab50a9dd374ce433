"""Makes the runs of a sweep in parallel as Ray tasks, on this machine or a running cluster.

Ray starts a process for each run, and restarts it if it dies; the run resumes from its folder.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from mobilenas.core.allocator import keep_freed_memory
from mobilenas.core.errors import FileError, MobileNASError, first_line
from mobilenas.core.files import keep_to
from mobilenas.core.folders import lock_folder
from mobilenas.core.plugins import load_plugins
from mobilenas.core.progress import Reporter
from mobilenas.core.records import read_record
from mobilenas.data import load_data
from mobilenas.latency.profile import Profile
from mobilenas.pipeline.records import ResultRecord
from mobilenas.pipeline.run_folder import RUN_FILE
from mobilenas.pipeline.stages import RESULT_FILE
from mobilenas.pipeline.sweep import SWEEP_FILE, Sweep, read_sweep, run_one, write_reports
from mobilenas.report.run_page import REPORT_FILE

Progress = Callable[[], AbstractContextManager[Reporter]]
"""Makes a reporter in the process of a run; Ray forwards its output."""

_RETRIES = 3
_PATIENCE_S = 30
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",  # equal lines of two runs are both shown
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # so that run.json names the GPU as usual
}
_CLUSTER = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # half a minute instead of ten for a wrong address


class RunsFailedError(MobileNASError):
    """Some runs of a sweep failed; the others are done."""


@contextmanager
def connected(address: str | None, *, quiet: bool) -> Iterator[None]:
    """Start Ray on this machine, or connect to the cluster at `address`, inside the context."""
    os.environ |= _ENVIRONMENT | ({} if address is None else _CLUSTER)  # read by `import ray`
    try:
        import ray
    except ImportError as error:
        raise MobileNASError("--on ray needs Ray: pip install 'mobilenas[ray]'") from error
    stop = signal.getsignal(signal.SIGTERM)
    own = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=not quiet,
            logging_level=logging.ERROR,
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "Ray does not start" if address is None else f"--address {address}"
        raise MobileNASError(f"{where}: {first_line(error)}") from error
    signal.signal(signal.SIGTERM, stop)  # Ray's own handler exits without a message
    try:
        yield
    finally:
        ray.shutdown()


def run_on_ray(sweep: Sweep, address: str | None, progress: Progress) -> dict[str, ResultRecord]:
    """Make all unfinished runs as Ray tasks; return result.json of each run by name.

    RunsFailedError names failed runs, after all others are done.
    """
    import ray

    _check_cores(sweep, address)
    task = ray.remote(max_calls=1)(_run)  # a separate process per run
    results, failures = dict[str, ResultRecord](), dict[str, str]()
    waiting: dict[Future[ResultRecord], str] = {}
    for name, request in sweep.requests.items():
        if (finished := _finished(sweep.folder / name)) is not None:
            results[name] = finished
            continue
        resources = task.options(
            name=name,
            num_cpus=request.threads,
            num_gpus=int(request.device == "cuda"),
            max_retries=_RETRIES,
        )
        where = (Path.cwd(), sweep.folder, name)
        known = (sweep.data.image_size, sweep.profile)
        waiting[resources.remote(*where, *known, progress).future()] = name
    if results:
        write_reports(sweep.folder)  # a kill may have left reports of fewer runs
    sweep.reporter.start("sweep", len(sweep.requests))
    for done, future in enumerate(as_completed(waiting), len(results) + 1):
        name = waiting[future]
        try:
            results[name] = future.result()
            outcome = f"{results[name].top1:.2f} %"
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)  # the run's exception, or how its process ended
            foreseen = isinstance(cause, MobileNASError)
            kind = "" if foreseen else f"{type(cause).__name__}: "
            failures[name], outcome = f"{kind}{first_line(cause)}", "failed"
            sweep.reporter.info(f"{name}: {failures[name] if foreseen else error}")  # or traceback
        else:
            write_reports(sweep.folder)
        sweep.reporter.step(done, {name: outcome})
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RunsFailedError(f"{len(failures)} of {len(sweep.requests)} runs failed: {reasons}")
    return {name: results[name] for name in sweep.requests}


def _check_cores(sweep: Sweep, address: str | None) -> None:
    """Raise if this machine has fewer cores than a run needs, which would wait forever."""
    import ray

    threads = next(iter(sweep.requests.values())).threads
    cores = int(ray.cluster_resources()["CPU"])
    if address is None and threads > cores:
        raise MobileNASError(f"--threads {threads} is more than the {cores} cores of this machine")


def _finished(folder: Path) -> ResultRecord | None:
    """Return result.json of a finished run; None if it is not finished."""
    done = (folder / RESULT_FILE).exists() and (folder / REPORT_FILE).exists()
    return read_record(folder / RESULT_FILE, ResultRecord) if done else None


def _run(
    cwd: Path,
    folder: Path,
    name: str,
    image_size: int,
    profile: Profile | None,
    progress: Progress,
) -> ResultRecord:
    """Make one run, in its own Ray process."""
    keep_freed_memory()
    try:
        os.chdir(cwd)
    except OSError as error:
        raise FileError(
            f"{cwd} is not on {socket.gethostname()}: all machines need the folders of the sweep "
            "and of the images under the same paths"
        ) from error
    load_plugins()
    _wait_for_former(folder / name)
    record = read_sweep(folder / SWEEP_FILE)
    keep_to(folder / SWEEP_FILE)
    with progress() as reporter:
        if (folder / name / RUN_FILE).exists():
            reporter.info("resumed")
        sweep = Sweep(
            folder=folder,
            requests=record.requests,
            command=record.command,
            data=load_data(record.requests[name].data_settings, check=lambda _: image_size),
            profile=profile,
            reporter=reporter,
        )
        return run_one(sweep, name)


def _wait_for_former(folder: Path) -> None:
    """Wait for a process of a killed sweep to release the run; Ray ends it within seconds."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return lock_folder(folder)
        except FileError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
