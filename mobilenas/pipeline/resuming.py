"""--resume with options, which must equal those of the start."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_json
from mobilenas.core.progress import Reporter
from mobilenas.core.settings import Fields, from_plain, to_plain
from mobilenas.pipeline.ablation import REQUEST_FILE, Ablation, open_ablation, read_request
from mobilenas.pipeline.request import ANY_COUNT, Request
from mobilenas.pipeline.run_folder import RUN_FILE, Run, open_run
from mobilenas.pipeline.sweep import SWEEP_FILE, Sweep, open_sweep, read_sweep
from mobilenas.search.variants import parse_variant, parse_variants


def resume_run(folder: Path, stated: Fields, kind: type[Request], reporter: Reporter) -> Run | None:
    """Open the run in `folder` if it has the `stated` options; FileError names different ones.

    None if there is no run, or one without its request, as in older releases; then all options must
    be given.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    plain = read_json(path).get("request")
    if plain is None:
        return None
    if not isinstance(plain, dict) or plain.keys() != {field.name for field in fields(kind)}:
        raise FileError(
            f"{folder} holds a run of another command or release: resume it with --resume only"
        )
    try:
        requested: Request = from_plain(kind, plain, "request")
    except MobileNASError as error:
        raise FileError(f"{path}: {error}") from error
    run = open_run(folder, reporter)
    if other := other_options(requested, stated):
        # an effort given as its number of epochs is the same job
        again = replace(requested, **stated)
        if _differ_at_once(requested, again) or again.settings(len(run.data.train)) != run.settings:
            raise FileError(f"{folder} holds another run: {other}")
    return run


def _differ_at_once(requested: Request, again: Request) -> bool:
    """Whether requests differ in more than epochs, which depend on the number of images."""
    before, now = requested.settings(ANY_COUNT), again.settings(ANY_COUNT)
    alike = {name: getattr(before, name) for name in ("recipe", "search", "finalists")}
    return replace(now, **alike) != before


def resume_sweep(
    folder: Path,
    stated: Fields,
    flops: Sequence[int],
    strengths: Sequence[float],
    methods: Sequence[str],
    reporter: Reporter,
) -> Sweep | None:
    """Open the sweep in `folder` if it has the stated options; None if there is none.

    FileError names different options.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return None
    requests = read_sweep(path).requests.values()
    first = next(iter(requests))
    other = [other_options(first, stated)]
    for option, field, values in (
        ("flops", "flops", flops),
        ("strengths", "strength", strengths),
        ("methods", "method", methods),
    ):
        before = list(dict.fromkeys(getattr(request, field) for request in requests))
        if values and list(values) != before:
            other.append(f"--{option} is {_listed(values)}, it was {_listed(before)}")
    if any(other):
        raise FileError(f"{folder} holds another sweep: {', '.join(filter(None, other))}")
    return open_sweep(folder, reporter)


def resume_ablation(
    folder: Path,
    stated: Fields,
    methods: str | None,
    control: str | None,
    reporter: Reporter,
) -> Ablation | None:
    """Open the ablation in `folder` if it has the stated options; None if there is none.

    FileError names different options.
    """
    path = folder / REQUEST_FILE
    if not path.exists():
        return None
    request, variants, first, _ = read_request(path)
    other = [other_options(request, stated)]
    if methods is not None and parse_variants(methods) != variants:
        names = ",".join(variant.name for variant in variants)
        other.append(f"--methods is {methods}, it was {names}")
    if control is not None and not parse_variant(control).is_like(first):
        other.append(f"--control is {control}, it was {first.name}")
    if any(other):
        raise FileError(f"{folder} holds another ablation: {', '.join(filter(None, other))}")
    return open_ablation(folder, reporter)


def other_options(requested: Request, stated: Fields) -> str:
    """Describe the options that differ from the request; empty if there are none."""
    before, now = to_plain(requested), to_plain(replace(requested, **stated))
    return ", ".join(
        f"--{name.replace('_', '-')} is {_shown(now[name])}, it was {_shown(before[name])}"
        for name in before
        if before[name] != now[name]
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)


def _listed(values: Sequence[float | str | None]) -> str:
    return ",".join("none" if value is None else str(value) for value in values)
