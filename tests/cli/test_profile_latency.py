"""`mobilenas profile latency`, `list`, `show`, `check`, `kit`, `import` and `calibrate`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mobilenas import search
from mobilenas.cli.main import cli
from mobilenas.core.files import write_json
from mobilenas.latency import building
from mobilenas.latency.draws import draw_networks
from mobilenas.latency.graphs import arch_model
from mobilenas.latency.kinds import KINDS, amounts
from mobilenas.latency.named_profiles import find_profile, list_profiles
from mobilenas.latency.units import arch_units
from mobilenas.onnx.settings import PROVIDER
from mobilenas.spaces.mobile.space import MobileSpace

NAMES = ("latency", "list", "show", "check", "kit", "import", "suggest", "calibrate", "remove")
SPACE = ("--space", "mobile", "--image-size", "8")
FEW = ("--networks", "4")
BUILD = ("latency", *SPACE, *FEW, "--rounds", "2", "--quiet")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["profile", *map(str, words)])


def done(*words: object) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: object) -> str:
    """The line that refuses `words`."""
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def folders(
    byte_clock: None, tmp_path_factory: pytest.TempPathFactory, micro_space: MobileSpace
) -> Any:
    """Profiles and cache in folders of their own; the micro space for every budget."""
    folder = tmp_path_factory.mktemp("latency")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILENAS_PROFILES", str(folder / "profiles"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(search, "space_for", lambda budgets, **options: micro_space)
        yield folder


@pytest.fixture(scope="module")
def here(folders: Path) -> str:
    done(*BUILD, "--name", "here")
    return "here"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, micro_space: MobileSpace) -> list[Path]:
    """A small and a large network as ONNX files."""
    folder = tmp_path_factory.mktemp("networks")
    paths = []
    for name, choice in (("small", micro_space.smallest()), ("large", micro_space.largest())):
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(arch_model(micro_space.arch(choice)))
    return paths


def test_onnx_files_are_timed(networks: list[Path], folders: Path) -> None:
    words = ("latency", *networks, "--rounds", "4", "--quiet")
    timed = json.loads(done(*words, "--json"))
    assert (timed["threads"], timed["provider"]) == (1, PROVIDER)
    assert [row["model"] for row in timed["models"]] == [str(path) for path in networks]
    medians = [row["median_ms"] for row in timed["models"]]
    assert medians == pytest.approx([path.stat().st_size / 1e6 for path in networks])
    assert [(row["rounds"], row["interval_ms"]) for row in timed["models"]] == [(4, 0)] * 2
    table = done(*words)
    assert f"{PROVIDER}, threads 1" in table
    assert "large.onnx" in table.replace("\n", "")
    assert not (folders / "cache" / "mobilenas").exists()


def test_a_space_becomes_a_profile(here: str, micro_space: MobileSpace) -> None:
    shown = json.loads(done("show", here, "--json"))
    assert shown["calibration"]["mape_percent"] >= 0
    assert -1 <= shown["calibration"]["kendall_tau"] <= 1
    assert (shown["precisions"], shown["image_sizes"]) == (["fp32"], [8])
    profile = find_profile(here)
    arch = micro_space.arch(micro_space.largest())
    assert 0 < profile.predict_ms(arch_units(arch), "fp32") < 1000
    fit = profile.calibration["fp32"]
    assert (fit.networks, fit.held_out) == (2, 2)
    table = done("show", here)
    # warnings of so rough a measurement come and go
    assert max(len(line) for line in table.splitlines() if "Warning" not in line) <= 80
    assert f"{fit.mape_percent:.1f}" in table
    assert here in done("list")
    listed = json.loads(done("list", "--json"))["profiles"]
    (row,) = (row for row in listed if row["name"] == here)
    assert (row["name"], row["error"]) == (here, "")


def test_what_is_new_is_added(folders: Path) -> None:
    done(*BUILD, "--name", "both")
    before = find_profile("both")
    done(*BUILD, "--name", "both", "--precision", "int8")
    both = find_profile("both")
    assert list(both.blocks) == ["fp32", "int8"]
    assert both.blocks["fp32"] == before.blocks["fp32"]
    assert both.calibration["fp32"] == before.calibration["fp32"]
    assert "has threads 1" in refused(*BUILD, "--name", "both", "--threads", "2")
    done(*BUILD, "--name", "both", "--overwrite")
    assert list(find_profile("both").blocks) == ["fp32"]


def test_the_options_reach_the_space(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_space: MobileSpace
) -> None:
    asked: list[tuple[int, dict[str, Any]]] = []

    def space_for(budgets: list[Any], **options: Any) -> MobileSpace:
        asked.append((budgets[0].limit, options))
        return micro_space

    monkeypatch.setattr(search, "space_for", space_for)
    words = ("kit", "--space", "mobile", "--quiet", *FEW, "--precision", "fp32,int8")
    done(*words, "--image-size", "112", "--out", tmp_path / "one")
    more = ("--flops", "5M", "--channels", "1", "--classes", "7", "--activation", "relu6")
    done(*words, "--image-size", "32", *more, "--out", tmp_path / "two")
    assert [limit for limit, _ in asked] == [75_000_000, 75_000_000, 5_000_000, 5_000_000]
    usual = {"image_size": 112, "in_channels": 3, "classes": 10}
    assert [options for _, options in asked[:2]] == [
        usual | {"activation": "hard_swish"},
        usual | {"activation": "relu"},
    ]
    said = {"image_size": 32, "in_channels": 1, "classes": 7, "activation": "relu6"}
    assert [options for _, options in asked[2:]] == [said, said]


def test_check_measures_again(here: str) -> None:
    found = json.loads(done("check", here, "--json", "--quiet"))
    assert found["same_device"]
    assert 0.1 < found["ratio_median"] < 10
    table = done("check", here, "--quiet")
    assert max(map(len, table.splitlines())) <= 80
    assert "Ratio: median" in table


def test_a_profile_that_does_not_hold_is_an_exit_status(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "LARGEST_DRIFT", -1)
    result = invoke("check", here, "--json", "--quiet")
    assert (result.exit_code, json.loads(result.stdout)["holds"]) == (3, False)


def test_a_kit_goes_round(folders: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    words = ("kit", *SPACE, *FEW, "--out", kit, "--quiet")
    written = json.loads(done(*words, "--json"))
    assert written["models"] == len(list((kit / "models").iterdir()))
    assert str(kit) in refused(*words)
    command = [sys.executable, "-I", "run_kit.py", "--rounds", "2", "--max-rounds", "2"]
    subprocess.run(command, cwd=kit, check=True, capture_output=True)
    results = kit / "kit-results.json"
    back = ("import", results, "--name", "board")
    assert "board" in done(*back, "--kit", kit)
    assert "--overwrite" in refused(*back)
    done(*back, "--overwrite")
    assert find_profile("board").command.startswith("mobilenas")
    results.write_text("{}", encoding="utf-8")
    assert str(results) in refused(*back, "--overwrite")


def test_a_few_times_make_another_device(
    here: str, tmp_path: Path, micro_space: MobileSpace
) -> None:
    profile, lines = find_profile(here), ["network,latency_ms"]
    for number, choice in enumerate((micro_space.smallest(), micro_space.largest())):
        arch = micro_space.arch(choice)
        write_json(tmp_path / f"{number}.json", arch.to_dict())
        lines.append(f"{number}.json,{3 * profile.summed_ms(arch_units(arch), 'fp32')}")
    times = tmp_path / "times.csv"
    times.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("calibrate", "--from", here, "--times", times, "--name", "tripled")
    done(*words)
    found = find_profile("tripled").calibration["fp32"]
    assert found.scale == pytest.approx(3)
    assert found.offset_ms == pytest.approx(0, abs=1e-6)
    assert "--overwrite" in refused(*words)
    assert "int8" in refused(*words, "--overwrite", "--precision", "int8")


def test_corrections_by_kind_are_shown(here: str, tmp_path: Path, micro_space: MobileSpace) -> None:
    profile, lines = find_profile(here), ["network,latency_ms"]
    for number, arch in enumerate(draw_networks(micro_space, 12, 0)):
        write_json(tmp_path / f"{number}.json", arch.to_dict())
        units = arch_units(arch)
        flops = sum(amounts(unit)[KINDS.index("depthwise_5x5_flops")] for unit in units)
        latency_ms = profile.summed_ms(units, "fp32") + 1e-6 * flops
        lines.append(f"{number}.json,{latency_ms}")
    times = tmp_path / "times.csv"
    times.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = invoke("calibrate", "--from", here, "--times", times, "--name", "by-kind")
    assert (result.exit_code, "Corrections by kind" in result.stderr) == (0, True), result.output
    shown = done("show", "by-kind")
    text = " ".join(shown.split())
    assert "fp32, corrected by kind of operation" in text and "depthwise 5x5 flops " in text
    assert max(len(line) for line in shown.splitlines()) <= 80
    calibrated = json.loads(done("show", "by-kind", "--json"))["calibration"]
    assert calibrated["weights"]["depthwise_5x5_flops"] > 0
    assert "weights" not in json.loads(done("show", here, "--json"))["calibration"]


def test_a_broken_profile_does_not_hide_the_others(here: str, folders: Path) -> None:
    broken = folders / "profiles" / "broken.json"
    broken.write_text('{"schema_version": 1', encoding="utf-8")
    rows = {row["name"]: row for row in json.loads(done("list", "--json"))["profiles"]}
    assert str(broken) in rows["broken"]["error"]
    assert rows[here]["error"] == ""
    assert (rows[here]["threads"], rows[here]["precisions"], rows[here]["sides"]) == (
        1,
        ["fp32"],
        [8],
    )
    assert "unreadable" in done("list")
    assert str(broken) in refused("show", "broken")
    broken.unlink()


def test_networks_go_to_a_device_and_come_back(here: str, tmp_path: Path) -> None:
    folder = tmp_path / "way"
    words = ("suggest", here, "--out", folder, "--networks", "4")
    shown = done(*words)
    assert f"--times {folder / 'times.csv'}" in shown and "--precision" not in shown
    words = (*words[:3], tmp_path / "same", "--precision", "fp32")
    assert "--precision fp32 --name DEVICE" in done(*words)
    assert "exists already" in refused(*words)
    result = invoke("networks", here, "--out", tmp_path / "two", "--json")
    warning = "mobilenas: warning: profile networks is deprecated; use profile suggest\n"
    assert (result.exit_code, result.stderr) == (0, warning)
    written = json.loads(result.stdout)
    assert len(written["networks"]) > 2 and written["folder"] == str(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("*.onnx"))) == len(written["networks"])


def test_a_profile_is_removed(here: str, folders: Path) -> None:
    path = folders / "profiles/spare.json"
    path.write_bytes((folders / f"profiles/{here}.json").read_bytes())
    assert done("remove", "spare") == f"Removed {path}\n"
    assert not path.exists()
    path.write_bytes((folders / f"profiles/{here}.json").read_bytes())
    assert json.loads(done("remove", "spare", "--json")) == {"removed": str(path)}
    assert "there is none of this name" in refused("remove", "spare")
    assert "comes with mobilenas and stays" in refused("remove", "x86-1thread")
    assert "'../spare'" in refused("remove", "../spare")


def test_an_unknown_profile_is_named(here: str) -> None:
    line = refused("show", "hera")
    assert "'hera'" in line
    assert here in line


def test_what_is_missing_or_too_much_is_named(networks: list[Path], tmp_path: Path) -> None:
    model = networks[0]
    for words, part in (
        (("latency",), "MODEL.onnx"),
        (("latency", "--space", "mobile", "--name", "x"), "--image-size"),
        (("latency", "--image-size", "8", "--name", "x"), "--space"),
        (("latency", *SPACE), "--name"),
        (("latency", model, "--name", "x"), "do not go with MODEL.onnx"),
        (("latency", model, "--flops", "1M"), "do not go with MODEL.onnx"),
        (("latency", model, "--provider", "Abacus"), "'Abacus'"),
        (("latency", tmp_path / "none.onnx"), "none.onnx"),
        (("latency", *SPACE, "--precision", "fp32,int4", "--name", "x"), "'int4'"),
        (("latency", *SPACE, "--name", "../x", "--quiet"), "'../x'"),
        (("kit", *SPACE), "--out"),
        (("import", "kit-results.json"), "--name"),
        (("calibrate", "--from", "here", "--name", "x"), "--times"),
    ):
        assert part in refused(*words), words


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"this is not a model")
    assert str(wrong) in refused("latency", wrong, "--quiet")


def test_ctrl_c_says_how_to_go_on(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "build_profile", interrupt)
    result = invoke(*BUILD, "--name", "stopped")
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr
    assert "stopped" not in list_profiles()


@pytest.mark.parametrize("name", NAMES)
def test_the_help_fits_80_columns(name: str) -> None:
    text = done(name, "--help")
    assert text.startswith(f"Usage: mobilenas profile {name}")
    assert max(map(len, text.splitlines())) <= 80


def test_help_imports_neither_torch_nor_rich() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mobilenas", "profile", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in NAMES)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert not {"torch", "numpy", "onnx", "onnxruntime", "rich.console"} & imported


def test_a_fresh_process_lists_and_shows(here: str) -> None:
    # Here every module has long been imported, in an order that hides circles.
    for words in (("list",), ("show", here)):
        command = [sys.executable, "-m", "mobilenas", "profile", *words]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert here in run.stdout
