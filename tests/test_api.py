"""The Python API: the examples of its docstrings, the scripts in examples/, and its front door."""

import doctest
import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import mobilenas as mn
from mobilenas import api
from mobilenas.core.files import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--data", "digits", "--flops", "300k", "--epochs", "2"]


def test_the_examples_of_the_docstrings_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(api)
    assert result.attempted > 10
    assert result.failed == 0


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("search_and_export", [*TINY, "--out", "files"], "int8: files/model.int8.onnx"),
        ("against_chance", [*TINY, "--networks", "1"], "random: "),
        ("count_and_measure", ["--image-size", "32"], "mobilenet_v3_large: "),
    ],
)
def test_the_examples_run(
    script: str,
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options])
    runpy.run_path(str(ROOT / f"examples/{script}.py"), run_name="__main__")
    assert says in capsys.readouterr().out


def test_every_name_is_a_function_of_the_api_with_a_docstring() -> None:
    for name in mn.__all__:
        assert inspect.getdoc(getattr(api, name)), name
        if name not in ("search", "train"):
            assert getattr(mn, name) is getattr(api, name)


def test_packages_of_the_same_name_are_functions_too() -> None:
    from mobilenas.search.settings import SearchSettings

    assert mn.search.settings.SearchSettings is SearchSettings
    with pytest.raises(TypeError, match="missing 2 required positional arguments"):
        mn.train()
    with pytest.raises(mn.MobileNASError, match="method"):
        data = mn.load_data("digits")
        mn.search(mn.mobile_space(data, flops="300k"), data, {"flops": "300k"}, method="magic")


def test_importing_the_front_door_imports_no_torch() -> None:
    code = "import sys, mobilenas; dir(mobilenas); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="magic"):
        _ = mn.magic


def test_an_option_that_is_none_is_named() -> None:
    data = mn.load_data("digits")
    space = mn.mobile_space(data, flops="300k")
    with pytest.raises(mn.MobileNASError, match="'watts' is not an option"):
        mn.search(space, data, {"flops": "300k"}, watts=1)
    with pytest.raises(mn.MobileNASError, match="cost is 'watts'; it must be one of flops"):
        mn.search(space, data, {"watts": 1})


def test_budgets_that_the_space_does_not_meet_or_use_are_refused_before_work() -> None:
    data = mn.load_data("digits")
    space = mn.mobile_space(data, flops="300k")
    for limit, message in (("1k", "flops <= 1k cannot be met"), ("1G", "limits nothing")):
        with pytest.raises(mn.MobileNASError, match=message):
            mn.random_networks(space, {"flops": limit}, 1)
        with pytest.raises(mn.MobileNASError, match=message):
            mn.search(space, data, {"flops": limit})


def test_what_is_wrong_is_refused_as_on_the_command_line() -> None:
    data = mn.load_data("digits")
    space = mn.mobile_space(data, flops="300k")
    (arch,) = mn.random_networks(space, {"flops": "300k"}, 1)
    with pytest.raises(mn.MobileNASError, match="epochs is 0"):
        mn.train(arch, data, epochs=0)
    with pytest.raises(mn.MobileNASError, match="effort is 'great'; it must be one of quick"):
        mn.train(arch, data, effort="great")  # type: ignore[arg-type]
    with pytest.raises(mn.MobileNASError, match="recipe is 'foto'; it must be one of scratch"):
        mn.train(arch, data, recipe="foto")
    with pytest.raises(mn.MobileNASError, match=r"mixup is 101\.0; it must be between 0 and 100"):
        mn.train(arch, data, set={"mixup": 101})
    with pytest.raises(mn.MobileNASError, match="space is 'cell'; it must be one of mobile"):
        mn.mobile_space(data, space="cell", flops="300k")
    with pytest.raises(mn.MobileNASError, match="width cannot be combined with"):
        mn.count("pyproject.toml", width=2)


def test_options_without_effect_on_loaded_images_are_refused() -> None:
    data = mn.load_data("digits")
    space, budgets = mn.mobile_space(data, flops="300k"), {"flops": "300k"}
    with pytest.raises(mn.MobileNASError, match=r"use run\(\.\.\., image_size='auto'\)"):
        mn.search(space, data, budgets, image_size="auto")
    with pytest.raises(mn.MobileNASError, match=r"use load_data\(\.\.\., image_size=\.\.\.\)"):
        mn.mobile_space(data, flops="300k", image_size=16)
    with pytest.raises(mn.MobileNASError, match="flip has no effect on images that are loaded"):
        mn.random_networks(space, budgets, 1, flip=True)
    with pytest.raises(mn.MobileNASError, match="images are 16x16, the space is for 8x8"):
        mn.search(space, mn.load_data("digits", image_size=16), budgets)


def test_a_network_is_trained_by_a_recipe_with_some_fields_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.train.compiled._BACKEND", "eager")
    data = mn.load_data("digits")
    (arch,) = mn.random_networks(mn.mobile_space(data, flops="300k"), {"flops": "300k"}, 1)
    changed = {"trivialaugment": True, "crop_scale": None, "batch_size": 64}
    options = {"recipe": "finetune", "set": changed, "compile": True}
    for out, given in (("a", options), ("b", {})):
        mn.train(arch, data, epochs=1, out=tmp_path / out, **given)  # type: ignore[arg-type]
    used, usual = (load_checkpoint(tmp_path / out / "checkpoint.pt") for out in "ab")
    assert used and usual
    wanted = {"batch_size": 64, "learning_rate": 0.02, "warmup_epochs": 0.5}
    more = {"trivialaugment": True, "norm_momentum": 0.1, "compile": True}
    expected = usual["identity"]["recipe"] | wanted | more
    assert used["identity"]["recipe"] == expected
    space = mn.mobile_space(data, flops="300k", recipe="photo", set={"mixup": 0.1})
    assert space == mn.mobile_space(data, flops="300k")


def test_a_search_resumes_in_its_folder(tmp_path: Path) -> None:
    data = mn.load_data("digits")
    space = mn.mobile_space(data, flops="300k")
    asked = {"effort": "quick", "finalists": 0, "out": tmp_path / "search"}
    first = mn.search(space, data, {"flops": "300k"}, **asked)
    before = (tmp_path / "search/checkpoint.pt").stat().st_mtime_ns
    again = mn.search(space, data, {"flops": 300_000}, **asked)
    assert again.arch == first.arch
    assert (tmp_path / "search/checkpoint.pt").stat().st_mtime_ns == before
