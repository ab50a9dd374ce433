"""A kit of a tiny space, and a browser that is a function."""

import hashlib
from pathlib import Path

import pytest

from mobilenas.latency.kit import Manifest, read_manifest, write_kit
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.web.records import Round, Work


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory, micro_space: MobileSpace) -> Path:
    folder = tmp_path_factory.mktemp("web") / "kit"
    write_kit({"fp32": micro_space}, folder, networks=6, seed=3)
    return folder


@pytest.fixture(scope="session")
def manifest(kit: Path) -> Manifest:
    return read_manifest(kit / "manifest.json")


def usual_ns(sha256: str) -> int:
    """What a model takes on an imaginary device: from 1 to 2 ms, by its checksum."""
    return 1_000_000 + int(hashlib.sha256(sha256.encode()).hexdigest()[:5], 16)


def timed(work: Work, slowdown: float = 1.0) -> Round:
    """Return the round that a page would post."""
    keys = [*work.models, *work.references]
    ns = {key: round(slowdown * usual_ns(key)) for key in keys}
    return Round(number=work.number, ns=ns, disturbed=[], failed={})
