"""The pictures of the README, from a finished run.

    python bench/picture.py RUN

draws docs/images/result.svg (test top-1 of every network against latency) and takes
docs/images/report.png, the top of RUN/report.html in headless Chromium.
"""

import argparse
import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from mobilenas.core.files import read_json, read_list

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
STYLES = {
    "searched": ("searched", "#e07b1a", "*", 160),
    "random": ("random", "#858d99", "o", 30),
    "random-search": ("random search (equal time)", "#a35fc9", "D", 36),
    "mobilenet": ("MobileNet", "#3d87cc", "s", 36),
}
"""Of a kind of compare.json: its label, colour, marker and size."""
SIZE, SHOWN = (1100, 1000), 800
"""Pixels of the browser's window; pixels that the picture is wide."""


def plot(run: Path, file: Path) -> None:
    """Draw top-1 against latency, with 95 % intervals; MobileNets are named."""
    networks: list[Any] = read_list(run / "compare.json")
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for kind, (label, colour, marker, size) in STYLES.items():
        group = [network for network in networks if network["kind"] == kind]
        x, y = [n["latency_ms"] for n in group], [n["top1"] for n in group]
        error = [n["latency_interval_ms"] for n in group]
        axes.errorbar(x, y, xerr=error, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        if group:
            axes.scatter(x, y, s=size, color=colour, marker=marker, label=label, zorder=3)
        for network in group if kind == "mobilenet" else ():
            axes.annotate(
                network["name"].replace("mobilenet_", ""),
                (network["latency_ms"], network["top1"]),
                textcoords="offset points",
                xytext=(7, 4),
                fontsize=8,
                color="#444444",
            )
    axes.margins(x=0.22, y=0.1)
    axes.set_xlabel("latency of one image, ms (one x86 thread)")
    axes.set_ylabel("top-1 on test images, %")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    with mpl.rc_context({"svg.hashsalt": "mobilenas"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def screenshot(run: Path, file: Path) -> None:
    """Take the top of the report."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise SystemExit("chromium is not installed; the picture of the report is left as it is")
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "report.png"
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={scratch}/profile", f"--window-size={SIZE[0]},{SIZE[1]}"),
                *(f"--screenshot={shot}", (run / "report.html").resolve().as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        picture = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")
    height = round(SHOWN * picture.height / picture.width)
    picture = picture.resize((SHOWN, height), Image.Resampling.LANCZOS)
    picture.quantize(method=Image.Quantize.FASTOCTREE).save(file, optimize=True)


def main() -> None:
    """Draw both pictures of the run that was named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run")
    run: Path = parser.parse_args().run
    read_json(run / "result.json")
    IMAGES.mkdir(exist_ok=True)
    plot(run, IMAGES / "result.svg")
    screenshot(run, IMAGES / "report.png")


if __name__ == "__main__":
    main()
