"""What is installed is what stands in the tree: the package list, the wheel, its script."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def packages_of(root: Path) -> set[str]:
    """Every folder with an `__init__.py`, by the name it installs under."""
    mapping = SETUPTOOLS["package-dir"]
    return {
        ".".join((package, *init.parent.relative_to(root / folder).parts))
        for package, folder in mapping.items()
        for init in (root / folder).rglob("__init__.py")
    }


def run(*command: object, cwd: Path) -> str:
    """Run a command away from the repository; the test shows its output where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_package_list_is_the_tree() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages_of(ROOT))


def test_every_folder_with_code_is_a_package() -> None:
    folders = [ROOT / folder for folder in SETUPTOOLS["package-dir"].values()]
    for folder in folders:
        for path in folder.rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_the_version_is_said_once() -> None:
    import mobilenas

    assert PYPROJECT["project"]["version"] == mobilenas.__version__


def pinned(name: str) -> dict[str, str]:
    """The versions of a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *extras["demo"], *extras["dev"]]
    bounds = dict(requirement.split(">=") for requirement in wanted)
    # those whose lowest builds are not tested, as the file says
    builds = {name: pinned("constraints.txt")[name] for name in ("torch", "torchvision")}
    assert pinned("constraints-lowest.txt") == bounds | builds


def test_what_builds_the_wheel_has_the_same_bound_in_both_places() -> None:
    (builder,) = PYPROJECT["build-system"]["requires"]
    assert builder in PYPROJECT["project"]["optional-dependencies"]["dev"]


@pytest.mark.parametrize("module", ["mobilenas", "mobilenas.cli.main"])
def test_importing_the_command_line_imports_nothing_large(module: str, tmp_path: Path) -> None:
    large = {"jinja2", "onnx", "scipy", "torch"}
    code = f"import sys, {module}; print(sorted({large} & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=tmp_path) == "[]\n"


# From the root of the repository the working folder comes first on sys.path, and mobilenas/ there
# has no cli/ in it: the editable installation must answer for it.
@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_python_m_mobilenas_answers_and_imports_nothing_large(where: str, tmp_path: Path) -> None:
    cwd = ROOT if where == "root" else tmp_path
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mobilenas", "--help"],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mobilenas.cli.main" in imported
    assert not {"jinja2", "onnx", "onnxruntime", "scipy", "torch", "torchvision"} & imported


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of an environment that holds the wheel and sees our dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    # The build writes build/ and *.egg-info into its source, so it gets a copy of its own.
    source = folder / "source"
    source.mkdir()
    wanted = ["pyproject.toml", "LICENSE", "README.md", *SETUPTOOLS["package-dir"].values()]
    for name in dict.fromkeys(wanted):
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("mobilenas-*.whl")
    python = scripts / "python"
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    # A folder named in a .pth file does not have its own .pth files read: third-party packages are
    # seen, the editable mobilenas beside them is not.
    site = Path(sysconfig.get_paths()["purelib"]).name
    sites = [path for path in sys.path if Path(path).name == site]
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    (Path(run(python, "-c", code, cwd=folder).strip()) / "dependencies.pth").write_text(
        "\n".join(sites) + "\n", encoding="utf-8"
    )
    return scripts


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without what Python compiled."""
    if source.is_file():
        target.write_bytes(source.read_bytes())
        return
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            inner = target / path.relative_to(source)
            inner.parent.mkdir(parents=True, exist_ok=True)
            inner.write_bytes(path.read_bytes())


@pytest.mark.slow
def test_the_wheel_holds_every_package_and_its_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib, json, mobilenas, importlib.resources as r;"
        f"m = [importlib.import_module(n) for n in {sorted(SETUPTOOLS['packages'])!r}];"
        "print(json.dumps({'files': [x.__file__ for x in m],"
        " 'typed': r.files('mobilenas').joinpath('py.typed').is_file(),"
        " 'profiles': sorted(p.name for p in r.files('mobilenas.profiles').iterdir()"
        " if p.name.endswith('.json')),"
        " 'templates': sorted(p.name for p in"
        " r.files('mobilenas.report').joinpath('templates').iterdir()),"
        " 'pages': sorted(p.name for p in r.files('mobilenas.web').joinpath('static').iterdir())}))"
    )
    found = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    for file in found["files"]:
        assert Path(file).is_relative_to(installed.parent), f"{file} is not from the wheel"
    assert found["typed"]
    templates = (ROOT / "mobilenas/report/templates").iterdir()
    assert found["templates"] == sorted(path.name for path in templates)
    pages = (ROOT / "mobilenas/web/static").iterdir()
    assert found["pages"] == sorted(path.name for path in pages)
    assert found["profiles"] == sorted(path.name for path in (ROOT / "profiles").glob("*.json"))


@pytest.mark.slow
def test_the_installed_script_answers(installed: Path, tmp_path: Path) -> None:
    assert "Usage: mobilenas" in run(installed / "mobilenas", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_installed_script_searches(installed: Path, tmp_path: Path) -> None:
    run(
        *(installed / "mobilenas", "search", "--data", "digits", "--flops", "300k"),
        *("--epochs", "1", "--search-epochs", "2", "--finalists", "0"),
        *("--threads", "1", "--out", "found"),
        cwd=tmp_path,
    )
    arch = json.loads((tmp_path / "found" / "arch.json").read_text(encoding="utf-8"))
    assert 0 < arch["costs"]["flops"] <= 300_000
