"""`mobilenas profile serve`: the command around the page."""

import http.cookiejar
import json
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("aiohttp")
from mobilenas import search
from mobilenas.cli import serve
from mobilenas.cli.main import cli
from mobilenas.latency.named_profiles import find_profile
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.web import runtime, site

SPACE = ("--space", "mobile", "--image-size", 8, "--networks", 6)
NAMED = ("--name", "phone", "--port", 0, "--quiet")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["profile", "serve", *map(str, words)])


def refused(*words: object) -> str:
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_space: MobileSpace) -> Path:
    """Profiles and cache in folders of their own; the micro space for every budget."""
    monkeypatch.setenv("MOBILENAS_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "space_for", lambda budgets, **options: micro_space)
    return tmp_path


@pytest.fixture
def with_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runtime, site):
        monkeypatch.setattr(module, "check_runtime", lambda _: None)


class Browser(threading.Thread):
    """Opens the address and says that every model takes a millisecond for each of its bytes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.home, _, self.token = url.partition("#")
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)

    def ask(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.home + path, data, headers)
        with self.opener.open(request) as answer:
            return bytes(answer.read())

    def run(self) -> None:
        said = {"browser": "B", "system": "Android", "model": "", "cores": 2, "isolated": False}
        self.ask("session", {"token": self.token, **said})
        sizes: dict[str, int] = {}
        work: dict[str, Any] = json.loads(self.ask("work"))
        while not work["ended"]:
            for key in (*work["models"], *work["references"]):
                sizes[key] = sizes.get(key) or len(self.ask(f"models/{key}"))
            ns = {key: 1000 * sizes[key] for key in (*work["models"], *work["references"])}
            posted = {"number": work["number"], "ns": ns, "disturbed": [], "failed": {}}
            work = json.loads(self.ask("rounds", posted))


def test_a_space_is_served_until_its_profile_is_there(
    folders: Path, with_runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "announce", lambda site, _: Browser(site.url).start())
    words = (*SPACE, *NAMED, "--threads", 2, "--rounds", 2, "--device", "my phone")
    done = invoke(*words, "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["name"], shown["provider"], shown["threads"]) == ("phone", "wasm", 1)
    assert (shown["device"]["cpu"], shown["device"]["os"]) == ("my phone", "Android")
    assert find_profile("phone").summary() == shown
    assert list((folders / "cache/mobilenas/latency").iterdir()) == []
    assert "exists already; use --overwrite" in refused(*words)
    # the kit is made once, and any kit can be served
    (kit,) = (folders / "cache/mobilenas/kits").iterdir()
    again = invoke("--kit", kit, *NAMED, "--rounds", 2, "--overwrite")
    assert again.exit_code == 0, again.output
    assert f"Profile: {folders / 'profiles/phone.json'}" in again.stdout


def test_wrong_options_are_refused_before_anything_is_made(folders: Path) -> None:
    assert "missing option --name" in refused(*SPACE)
    assert "options of a space do not go with --kit" in refused(*SPACE, "--kit", "k", *NAMED)
    assert "--key goes with --certificate only" in refused(*SPACE, "--key", "k.pem", *NAMED)
    webgpu = (*SPACE, *NAMED, "--backend", "webgpu")
    assert "int8 does not go with --backend webgpu" in refused(*webgpu, "--precision", "fp32,int8")
    assert "--threads 2 does not go with --backend webgpu" in refused(*webgpu, "--threads", 2)
    assert "--port is 70000" in refused(*SPACE, "--name", "x", "--port", 70000)
    assert list(folders.iterdir()) == []


def test_what_is_missing_is_named(
    folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "FOLDER", tmp_path / "none")
    assert "`make web`" in refused(*SPACE, *NAMED)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install 'mobilenas[web]'" in refused(*SPACE, *NAMED)
    assert list(folders.iterdir()) == []


def test_a_kit_or_a_certificate_that_is_none_is_refused(folders: Path, with_runtime: None) -> None:
    assert "manifest.json does not exist" in refused("--kit", folders, *NAMED)
    (folders / "cert.pem").write_text("none")
    words = ("--certificate", folders / "cert.pem")
    assert "cannot use" in refused(*SPACE, *NAMED, *words)
