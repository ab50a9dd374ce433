"""`mobilenas profile list`, `show`, `remove`, `suggest`, `check`; printing profiles, times."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenas.core.settings import counted
from mobilenas.onnx.settings import PRECISIONS

from .command import Command
from .options import PATH, json_option, option, output_options
from .terminal import echo

if TYPE_CHECKING:
    from mobilenas.latency.measured import Measured
    from mobilenas.latency.profile import Profile


@click.command(cls=Command, name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the latency profiles."""
    from mobilenas.core.errors import MobileNASError
    from mobilenas.latency.named_profiles import list_profiles
    from mobilenas.latency.profile import read_profile

    from .render import show_json, show_table

    found: list[dict[str, object]] = []
    for name, path in list_profiles().items():
        row: dict[str, object] = {"name": name, "file": str(path), "error": ""}
        try:
            profile = read_profile(path)
        except MobileNASError as error:  # a broken profile does not hide the others
            row["error"] = str(error)
        else:
            row |= _described(profile)
        found.append(row)
    if as_json:
        show_json({"profiles": found})
        return
    if not found:
        echo("There are no profiles; `mobilenas profile latency` measures this device.")
        return
    columns = ("name", "device", "runtime", "threads", "precisions", "sides")
    show_table(
        "Profiles",
        columns,
        ([_cell(row.get(name, "unreadable")) for name in columns] for row in found),
        words=("device", "runtime", "precisions", "sides"),
    )


def _described(profile: "Profile") -> dict[str, object]:
    return {
        "device": str(profile.device.get("cpu") or profile.device.get("name", "")),
        "runtime": profile.runtime,
        "threads": profile.threads,
        "precisions": list(profile.blocks),
        "sides": profile.image_sizes,
    }


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command(cls=Command, name="show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what a profile holds and how good its predictions are.

    NAME is one of `mobilenas profile list` or a file.
    """
    from mobilenas.latency.named_profiles import find_profile

    show_profile(find_profile(name), as_json=as_json)


def show_profile(profile: "Profile", *, as_json: bool) -> None:
    """Print a profile without unit times."""
    from .render import show_json, show_table

    if as_json:
        show_json(profile.summary())
        return
    sides = ", ".join(f"{side}x{side}" for side in profile.image_sizes)
    device = ", ".join(str(value) for value in profile.device.values())
    echo(click.wrap_text(f"{profile.name}: {device}", 80))
    echo(f"{profile.runtime}, {profile.provider}, threads {profile.threads}")
    echo(click.wrap_text(f"Images {sides}, measured {profile.date}", 80))
    echo()
    rows = [
        (
            precision,
            str(len(profile.blocks[precision])),
            str(len(profile.failures[precision])),
            f"{fit.networks}+{fit.held_out}",
            f"{fit.mape_percent:.1f}",
            f"{fit.kendall_tau:.2f}",
            f"{fit.flops_mape_percent:.1f}",
            f"{fit.flops_kendall_tau:.2f}",
            f"{fit.noise_percent:.1f}",
        )
        for precision, fit in profile.calibration.items()
    ]
    names = ("parts", "failed", "networks", "error %", "tau", "by FLOPs", "tau", "noise %")
    show_table("", ("precision", *names), rows)
    echo("networks: fitted on + tested on; error, tau: of their predicted latencies, mean")
    echo("and order, then of the same fit on FLOPs; noise: of the measurement itself.")
    for precision, fit in profile.calibration.items():
        if fit.weights:
            terms = (f"{name} {weight:.3g}" for name, weight in fit.weights.items() if weight > 0)
            text = f"{precision}, corrected by kind of operation, ms for one: {', '.join(terms)}"
            echo(click.wrap_text(text.replace("_", " "), 80))
    for warning in profile.warnings():
        echo(click.wrap_text(f"Warning: {warning}", 80))


def show_times(times: "dict[str, Measured]", threads: int, provider: str, *, as_json: bool) -> None:
    """Print the latencies of models."""
    from .render import show_json, show_table

    if as_json:
        measured = [{"model": name} | asdict(time) for name, time in times.items()]
        show_json({"threads": threads, "provider": provider, "models": measured})
        return
    rows = (
        (
            name,
            f"{time.median_ms:.4g}",
            f"± {time.interval_ms:.2g}{' ?' if time.unsteady else ''}",
            f"{time.minimum_ms:.4g}",
            f"{time.iqr_ms:.2g}",
            str(time.rounds),
        )
        for name, time in times.items()
    )
    columns = ("model", "median ms", "95 %", "fastest", "spread", "rounds")
    show_table(f"Latency of one image, {provider}, threads {threads}", columns, rows)
    if any(time.unsteady for time in times.values()):
        echo("?: other programs disturbed the measurement, and repeating it did not help.")


@click.command(cls=Command, name="remove")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Delete a profile of your own.

    Runs that were started with it keep their copy.
    """
    from mobilenas.latency.named_profiles import remove_profile

    from .render import show_json

    path = remove_profile(name)
    if as_json:
        show_json({"removed": str(path)})
    else:
        echo(f"Removed {path}")


@click.command(cls=Command, name="suggest")
@click.argument("name")
@option(
    "--out",
    metavar="FOLDER",
    type=PATH,
    required=True,
    help="Folder to write.",
)
@option(
    "--networks",
    type=click.IntRange(2, 1000),
    default=10,
    default_text="10",
    metavar="N",
    help="Number of networks.",
)
@option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default_text="the profile's first",
    help="Precision of the files.",
)
@json_option
def suggest(name: str, out: Path, networks: int, precision: str | None, as_json: bool) -> None:
    """Write networks to time on another device.

    Writes ONNX files of the networks that are most informative about a device, in this order, and
    times.csv to fill in.
    """
    from mobilenas.latency.named_profiles import find_profile
    from mobilenas.latency.transfer import write_networks

    from .render import show_json

    names = write_networks(find_profile(name), out, precision, networks=networks)
    if as_json:
        show_json({"folder": str(out), "networks": names})
        return
    echo(
        f"{counted(len(names), 'network')} in {out}: time each on the device, with one image, and "
        "write the"
    )
    echo(f"milliseconds into {out / 'times.csv'}. Then:")
    words = ["mobilenas", "profile", "calibrate", "--from", name, "--times", str(out / "times.csv")]
    words += ["--precision", precision] if precision else []
    echo(shlex.join([*words, "--name", "DEVICE"]))


@click.command(cls=Command, name="check")
@click.argument("name")
@output_options
def check(name: str, quiet: bool, as_json: bool) -> int:
    """Measure a few parts again and compare with the profile.

    Exit status 3 if the device is not as fast as in the profile, or other programs disturb it.
    """
    from .progress import make_reporter

    with make_reporter(quiet) as reporter:
        from mobilenas.latency.building import check as measure_again
        from mobilenas.latency.named_profiles import find_profile

        found = measure_again(find_profile(name), reporter=reporter)
    from .render import BROKEN_BUDGET, DONE, show_json, show_table

    status = DONE if found.holds else BROKEN_BUDGET
    if as_json:
        show_json(found)
        return status
    rows = (
        (
            row.precision,
            row.key,
            f"{row.then_ms:.3g}",
            f"{row.now_ms:.3g} ± {row.interval_ms:.1g}{' ?' if row.unsteady else ''}",
            f"{row.ratio:.3g}",
        )
        for row in found.parts
    )
    show_table("", ("precision", "part", "then ms", "now ms", "ratio"), rows, words=("part",))
    echo(f"Ratio: median {found.ratio_median:.3g}, spread {found.ratio_iqr:.2g}")
    if not found.same_device:
        echo("Warning: the profile was measured on another device")
    echo(click.wrap_text(f"{found.name}: {found.verdict}", 80))
    return status
