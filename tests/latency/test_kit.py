"""A kit goes out, its own runner times it without mobilenas, and its times become a profile."""

import ast
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import parse_json
from mobilenas.cost.networks import costs
from mobilenas.latency import kit_runner
from mobilenas.latency.drift import remove_drift
from mobilenas.latency.kit import Manifest, import_results, read_manifest, write_kit
from mobilenas.latency.measured import Failed, Measured
from mobilenas.latency.units import arch_units, space_units
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, micro_space: MobileSpace) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "kit"
    write_kit({"fp32": micro_space, "int8": micro_space}, folder, networks=6, seed=3)
    return folder


def run_kit(kit: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start the kit's own runner in a Python that sees neither this folder nor PYTHONPATH."""
    command = [sys.executable, "-I", "run_kit.py", *words]
    return subprocess.run(command, cwd=kit, capture_output=True, text=True)


@pytest.fixture(scope="module")
def results(kit: Path) -> Path:
    done = run_kit(kit, "--rounds", "3", "--max-rounds", "3", "--device", "bench board")
    assert done.returncode == 0, done.stderr
    return kit / "kit-results.json"


def changed(results: Path, folder: Path, change: Change) -> Path:
    data = json.loads(results.read_text(encoding="utf-8"))
    change(data)
    path = folder / "changed.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_kit_holds_every_unit_and_the_networks(kit: Path, micro_space: MobileSpace) -> None:
    manifest = read_manifest(kit / "manifest.json")
    keys = [unit.key for unit in space_units(micro_space)]
    for precision in ("fp32", "int8"):
        models = [model for model in manifest.models if model.precision == precision]
        assert [model.key for model in models if model.kind == "unit"] == keys
        assert len({model.arch for model in models} - {None}) == 6
    for model in manifest.models:
        content = (kit / model.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == model.sha256
    assert len(list((kit / "models").iterdir())) == len(manifest.models)
    assert manifest.kit in (kit / "README.md").read_text(encoding="utf-8")


def test_the_flops_of_a_network_are_its_units(kit: Path) -> None:
    models = read_manifest(kit / "manifest.json").models
    flops = {model.key: model.flops for model in models if model.kind == "unit"}
    for model in models:
        if model.arch is not None:
            assert model.flops == costs(model.arch).flops
            *units, classifier = arch_units(model.arch)
            last = classifier.in_channels * classifier.out_channels
            assert sum(flops[unit.key] for unit in units) + last == model.flops


def test_the_same_seed_gives_the_same_kit(
    kit: Path, tmp_path: Path, micro_space: MobileSpace
) -> None:
    spaces = {"fp32": micro_space, "int8": micro_space}
    known = read_manifest(kit / "manifest.json")
    assert write_kit(spaces, tmp_path / "again", networks=6, seed=3).kit == known.kit
    assert write_kit(spaces, tmp_path / "other", networks=6, seed=4).kit != known.kit


def test_a_kit_of_parts_of_a_network(parts: SubnetworkSpace, tmp_path: Path) -> None:
    small = replace(parts, shares=(1.0,))
    manifest = write_kit({"fp32": small}, tmp_path / "kit", networks=4)
    assert read_manifest(tmp_path / "kit/manifest.json") == manifest
    assert manifest.measured == {"fp32": small}
    keys = [model.key for model in manifest.models if model.kind == "unit"]
    assert keys == [unit.key for unit in space_units(small)]
    archs = {model.arch for model in manifest.models} - {None}
    assert {arch.padding for arch in archs if arch} == {"same"}


def test_a_folder_with_something_in_it_is_refused(kit: Path, micro_space: MobileSpace) -> None:
    with pytest.raises(FileError, match="holds a kit"):
        write_kit({"fp32": micro_space}, kit)
    with pytest.raises(MobileNASError, match="networks is 3"):
        write_kit({"fp32": micro_space}, kit / "new", networks=3)
    assert not (kit / "new").exists()


def test_the_runner_is_the_package_s_and_imports_nothing_of_it(kit: Path) -> None:
    text = (kit / "run_kit.py").read_text(encoding="utf-8")
    assert text == Path(kit_runner.__file__).read_text(encoding="utf-8")
    # feature_version: no match statement, no parenthesized with
    tree = ast.parse(text, feature_version=(3, 8))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    others = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert others == {"numpy", "onnxruntime"}


def test_results_become_a_profile(results: Path, kit: Path, micro_space: MobileSpace) -> None:
    profile = import_results(results, "board", kit=kit, command="mobilenas test")
    assert (profile.name, profile.device["cpu"]) == ("board", "bench board")
    assert profile.spaces == (micro_space,)
    times = json.loads(results.read_text(encoding="utf-8"))["times"]
    for precision in ("fp32", "int8"):
        arch = micro_space.arch(micro_space.largest())
        assert profile.lacking(arch_units(arch), precision) == []
        assert 0 < profile.predict_ms(arch_units(arch), precision) < 1000
        fit = profile.calibration[precision]
        assert (fit.networks, fit.held_out) == (2, 4)
    rounds = [{file: time["ns"][n] for file, time in times.items()} for n in range(3)]
    for model in read_manifest(kit / "manifest.json").models:
        if model.kind == "unit":
            expected = Measured.of(remove_drift(rounds)[model.file])
            assert profile.blocks[model.precision][model.key] == expected


def test_a_killed_runner_goes_on_where_it_was(results: Path, kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(kit, folder)
    before = json.loads(results.read_text(encoding="utf-8"))["times"]
    done = run_kit(folder, "--rounds", "4", "--max-rounds", "4", "--device", "bench board")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("round ") == 1
    after = json.loads((folder / "kit-results.json").read_text(encoding="utf-8"))["times"]
    assert {file: time["ns"][:3] for file, time in after.items()} == {
        file: time["ns"] for file, time in before.items()
    }
    refused = run_kit(folder, "--device", "another board")
    assert refused.returncode == 2
    assert "another board" in refused.stderr


def test_a_model_that_does_not_run_fails_alone(kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(kit, folder, ignore=shutil.ignore_patterns("kit-results.json"))
    data = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    data["models"] = data["models"][:3]
    broken, left_out = data["models"][0]["file"], data["models"][1]["file"]
    (folder / broken).write_bytes(b"junk")
    data["models"][0]["sha256"] = hashlib.sha256(b"junk").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    done = run_kit(folder, "--rounds", "2", "--max-rounds", "2", "--skip", left_out)
    assert done.returncode == 0, done.stderr
    times = json.loads((folder / "kit-results.json").read_text(encoding="utf-8"))["times"]
    assert "failed" in times[broken]
    assert "--skip" in times[left_out]["failed"]
    assert len(times[data["models"][2]["file"]]["ns"]) == 2


def test_a_model_that_was_copied_wrongly_is_named(kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(kit, folder, ignore=shutil.ignore_patterns("kit-results.json"))
    victim = sorted((folder / "models").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:-1])
    done = run_kit(folder)
    assert done.returncode == 2
    assert victim.name in done.stderr


def test_failures_are_kept_and_their_networks_left_out(
    results: Path, kit: Path, tmp_path: Path
) -> None:
    models = [
        model for model in read_manifest(kit / "manifest.json").models if model.kind == "unit"
    ]
    networks = [model for model in read_manifest(kit / "manifest.json").models if model.arch]
    used = [
        {unit.key for unit in arch_units(model.arch)}
        for model in networks
        if model.precision == "fp32" and model.arch
    ]
    uses = {model.key: sum(model.key in keys for keys in used) for model in models}
    for count in (0, 1):
        victim = next(model for model in models if uses[model.key] == count)
        failed = {victim.file: {"failed": "too big"}}
        path = changed(results, tmp_path, lambda data, failed=failed: data["times"].update(failed))
        profile = import_results(path, "board")
        assert profile.blocks["fp32"][victim.key] == Failed(reason="too big")
        assert len(profile.networks["fp32"]) == 6 - count


def _rename(data: dict[str, Any]) -> None:
    data["times"]["models/none.onnx"] = data["times"].pop(next(iter(data["times"])))


def _set_first(data: dict[str, Any], value: Any) -> None:
    data["times"][next(iter(data["times"]))] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema_version=3), "schema_version is 3"),
        (lambda data: data.update(units="ms"), "units is 'ms'; it must be one of ns"),
        (lambda data: data.update(kit="abc"), "kit is 'abc'"),
        (lambda data: data.update(extra=1), "unknown field 'extra'"),
        (lambda data: data.pop("device"), "lacks 'device'"),
        (lambda data: data.update(device={"cpu": "x"}), "it must have cpu and onnxruntime"),
        (lambda data: data.update(threads="one"), "threads is 'one'; it must be int"),
        (lambda data: data.update(date="soon"), "date is 'soon'"),
        (lambda data: data["manifest"]["models"].pop(), "manifest.kit is"),
        (lambda data: data["times"].popitem(), "times lacks models/"),
        (_rename, "'models/none.onnx', which is not a model"),
        (lambda data: _set_first(data, {"ns": [5, 5]}), "has 2 rounds of 3"),
        (lambda data: _set_first(data, {"ns": [5, -5, 5]}), r"ns\[1\] is -5"),
        (lambda data: _set_first(data, {"ns": [5, 1.5, 5]}), r"ns\[1\] is 1.5; it must be int"),
        (lambda data: _set_first(data, {"ms": [5]}), "has an unknown field 'ms'"),
    ],
)
def test_wrong_results_are_refused(
    results: Path, tmp_path: Path, change: Change, message: str
) -> None:
    path = changed(results, tmp_path, change)
    with pytest.raises(FileError, match=message) as caught:
        import_results(path, "board")
    assert str(path) in str(caught.value)


def test_results_of_another_kit_are_refused(
    results: Path, tmp_path: Path, micro_space: MobileSpace
) -> None:
    other = write_kit({"fp32": micro_space}, tmp_path / "other", networks=4)
    with pytest.raises(FileError, match=f"that of .*other is '{other.kit}'"):
        import_results(results, "board", kit=tmp_path / "other")


def test_a_manifest_s_id_is_that_of_its_content(kit: Path) -> None:
    data = json.loads((kit / "manifest.json").read_text(encoding="utf-8"))
    assert Manifest.from_dict(data, "manifest").to_dict() == {
        key: value for key, value in data.items() if key != "schema_version"
    }
    data["models"][0]["flops"] += 1
    with pytest.raises(MobileNASError, match="changed after it was made"):
        Manifest.from_dict(data, "manifest")


def test_times_of_perf_test_are_read(kit: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "times", tmp_path / "kit-results.json"
    folder.mkdir()
    models = read_manifest(kit / "manifest.json").models
    for number, model in enumerate(models, 1):
        # three calls of two runs each, of which one is slow and one fast for all models
        calls = [(n * 0.001 * number, (4 - n) * 0.001 * number) for n in (1, 1.2, 1.1)]
        calls = [(speed * a, speed * b) for speed, (a, b) in zip((1, 1.2, 0.9), calls, strict=True)]
        lines = [f"m,{s},0,0,{run}" for call in calls for run, s in enumerate(call)]
        text = "\n".join(lines) + "\n"
        (folder / f"{Path(model.file).name}.csv").write_text(text, encoding="utf-8")
    words = ("--perf-test", str(folder), "--device", "Pixel 7", "--rounds", "3")
    assert run_kit(kit, *words, "--out", str(out)).returncode == 2
    done = run_kit(kit, *words, "--runtime", "1.22.0", "--out", str(out))
    assert done.returncode == 0, done.stderr
    profile = import_results(out, "pixel7")
    assert (profile.device["cpu"], profile.runtime) == ("Pixel 7", "onnxruntime 1.22.0")
    first = profile.blocks["fp32"][models[0].key]
    assert isinstance(first, Measured)
    assert first.median_ms == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 2, "kit": "a", "kit": "b"}', "the key 'kit' appears twice"),
        ('{"schema_version": 1, "models": [{"file": "a", "file": "a"}]}', "'file' appears twice"),
        ('{"schema_version": 2, "schema_version": 1}', "'schema_version' appears twice"),
        ('{"schema_version": 1, "x": NaN}', "NaN is not a legal number"),
        ('{"schema_version": 1, "x": -Infinity}', "-Infinity is not a legal number"),
        ('{"schema_version": 1, "x": 1e308}', "1e308 is not a legal number"),
        (f'{{"schema_version": 1, "x": {2**63}}}', f"{2**63} is not a legal number"),
        (f'{{"schema_version": 1, "x": {"9" * 5000}}}', "9 is not a legal number"),
        (f'{{"schema_version": 1, "x": {"[" * 64}{"]" * 64}}}', "more than 64 levels"),
        (f'{{"schema_version": 1, "x": {"[" * 10**5}{"]" * 10**5}}}', "not JSON"),
        (r'{"schema_version": 1, "x": "\ud800"}', "not allowed in names"),
        (r'{"schema_version": 1, "\u0000": 1}', "not allowed in names"),
    ],
)
def test_the_runner_reads_json_as_strictly_as_the_package(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError):
        parse_json(text, "text")
    with pytest.raises(kit_runner.KitError, match=message) as caught:
        kit_runner.read_json(path)
    assert len(str(caught.value)) < 300


def test_the_runner_reads_all_that_the_package_does(tmp_path: Path) -> None:
    numbers = [0, -(2**63) + 1, 2**63 - 1, 1e100, -1e-300, 1e-320]
    deep: Any = "\udc80é"
    for _ in range(62):
        deep = [deep]
    data = {"schema_version": 2, "numbers": numbers, "deep": deep}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    assert kit_runner.read_json(path) == parse_json(path.read_bytes(), "text") == data


def test_the_runner_stops_when_the_meter_does() -> None:
    source = random.Random(0)
    seen = set()
    for _ in range(300):
        spread = source.choice([0.001, 0.02, 0.3])
        times = [round(1e6 * source.gauss(1, spread)) for _ in range(source.randint(1, 60))]
        times = [max(1, ns) for ns in times]
        found = Measured.of(times)
        precise = found.interval_ms <= 0.02 * found.median_ms
        enough = len(times) >= 48 or (len(times) >= 16 and precise)
        assert kit_runner.is_precise(times, 16, 48, 0.02) == enough
        seen.add(enough)
    assert seen == {True, False}
