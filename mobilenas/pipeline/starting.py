"""Starts the run of a request, after all checks that need no images."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mobilenas.channels.start import check_start
from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import to_plain
from mobilenas.data import ImageData, ImageKind, load_data
from mobilenas.latency.cost_model import Latency
from mobilenas.latency.named_profiles import find_profile
from mobilenas.latency.profile import Profile
from mobilenas.onnx.targets import GATE
from mobilenas.pipeline.image_size import image_sizes
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import Run, check_run, create_run
from mobilenas.pipeline.settings import RunSettings
from mobilenas.pipeline.space import latency_model, usable_space
from mobilenas.train.pretrained import load


def start(
    folder: Path,
    request: Request,
    *,
    command: str,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Start the run of a request in `folder`, or resume it with `resume`."""
    check_run(folder, resume=resume, overwrite=overwrite)  # before decoding images
    profile = profile_of(request, reporter)
    tell_targets(request, reporter)
    data = read_images({"": request}, profile, reporter)
    settings = request.settings(len(data.train))
    return create_run(
        folder,
        settings,
        data=data,
        image_sizes=image_sizes(settings, data, latency_model(settings, profile)),
        request=to_plain(request),
        profile=profile,
        command=command,
        reporter=reporter,
        resume=resume,
        overwrite=overwrite,
    )


def read_images(
    requests: Mapping[str, Request],
    profile: Profile | None,
    reporter: Reporter,
    check: Callable[[RunSettings, ImageKind, Latency | None], object] = usable_space,
) -> ImageData:
    """Read the images that all `requests` share, after all checks that do not need them.

    First settings, model, profile and device are checked, then, once classes and image size are
    known, `check` is called. Only then images are decoded, at the largest useful size if it is
    searched. Budget errors begin with the request's name, if it has one.
    """
    few = {name: request.settings(ANY_COUNT) for name, request in requests.items()}
    for settings in few.values():
        if settings.channel_sizes is not None:
            check_start(settings.channel_sizes)
        if settings.pretrained is not None:
            load(settings.pretrained.name, weights=settings.pretrained.weights)
    latencies = {name: latency_model(settings, profile) for name, settings in few.items()}

    def check_all(kind: ImageKind) -> int | None:
        sides = list[int]()
        for name, settings in few.items():
            try:
                if settings.search_image_size:
                    sides += image_sizes(settings, kind, latencies[name])
                else:
                    check(settings, kind, latencies[name])
            except BudgetError as error:
                raise BudgetError(f"{name}: {error}" if name else str(error)) from error
        return max(sides, default=None)

    first = next(iter(requests.values()))
    return load_data(first.data_settings, reporter, check_all)


def profile_of(request: Request, reporter: Reporter) -> Profile | None:
    """Return the requested profile, and report warnings about its predictions."""
    if request.profile is None:
        return None
    profile = find_profile(request.profile)
    known = profile.calibration.get(request.precision)
    if known is not None and known.useless:
        raise MobileNASError(f"profile {profile.name}, {request.precision}: {known.useless}")
    for warning in profile.warnings():
        if warning.startswith(f"{request.precision}:"):
            reporter.info(f"profile {profile.name}, {warning}")
    return profile


def tell_targets(request: Request, reporter: Reporter) -> None:
    """Report operators that the targets exclude from the space."""
    target = request.target_without_gate
    if target and request.space == "mobile":
        reporter.info(f"{target} has no {GATE}: networks have no hard-swish and no squeeze-excite")
