"""The order of packages in docs/design.md, held against the code's own imports.

A file imports `mobilenas` modules from its own package and from lower ones, and no chain of imports
comes back to its start. Imports inside functions and under `if TYPE_CHECKING` count, too.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCHVISION_DOOR = "mobilenas.core._torchvision"

PACKAGES = (
    ("core",),
    ("data", "nn"),
    ("channel_graph", "supernet"),
    ("spaces.base",),
    ("cost",),
    ("spaces",),
    ("train",),
    ("onnx",),
    ("latency",),
    ("search",),
    ("channels",),
    ("baselines",),
    ("report",),
    ("pipeline",),
    ("web",),
    ("api",),
    ("cli", "__main__"),
)
"""From low to high. A package imports lower ones and itself.

`mobilenas` itself imports `mobilenas.api` on first use."""
LAYERS = {f"mobilenas.{name}": n for n, row in enumerate(PACKAGES) for name in row}
MAY = {("mobilenas.__main__", "mobilenas.cli")}


class Import(NamedTuple):
    """One imported name; `module` is what `from module import name` says, made absolute."""

    module: str
    name: str | None
    line: int


def module_files(root: Path) -> dict[str, Path]:
    """Every Python file of the package by the name it installs under."""
    files = {}
    for folder, package in (("mobilenas", "mobilenas"), ("cli", "mobilenas.cli")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files[".".join((package, *parts))] = path
    return files


def package_of(module: str) -> str:
    """`mobilenas.search` for each of its modules; `mobilenas.spaces.base` is one by itself."""
    parts = module.split(".")
    inner = ".".join(parts[:3])
    return inner if inner in LAYERS else ".".join(parts[:2])


def imports_of(module: str, path: Path) -> list[Import]:
    """All imports of one file, wherever they stand in it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            found += [Import(base, alias.name, node.lineno) for alias in node.names]
    return found


def violations(root: Path) -> list[str]:
    """Each broken rule as one line that names file, line and rule."""
    files = module_files(root)
    problems = []
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        package, place = package_of(module), path.relative_to(root)
        if package not in LAYERS and package != "mobilenas":
            problems.append(f"{place}: {module} is in no package of docs/design.md")
            continue
        graph[module] = set()
        if module == "mobilenas":
            continue
        for found in imports_of(module, path):
            line = f"{place}:{found.line}"
            top = found.module.partition(".")[0]
            if top == "torchvision" and module != TORCHVISION_DOOR:
                problems.append(f"{line}: imports torchvision, not {TORCHVISION_DOOR}")
            if top == "cli":
                problems.append(f"{line}: cli is installed as mobilenas.cli")
            if top != "mobilenas":
                continue
            # `from mobilenas.nn import blocks` means the file blocks.py where there is one.
            inner = f"{found.module}.{found.name}"
            target = inner if inner in files else found.module
            if target not in files:
                problems.append(f"{line}: there is no module {target}")
                continue
            graph[module].add(target)
            other = package_of(target)
            if other in ("mobilenas", package) or (package, other) in MAY:
                continue
            if LAYERS.get(other, -1) >= LAYERS.get(package, -1):
                problems.append(f"{line}: {package} imports {target}, which is not below it")
    return problems + circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The first circle found among the imports, as one line."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["circle: " + " <- ".join(error.args[1])]
    return []


def test_the_code_keeps_the_order_of_packages() -> None:
    assert len(module_files(ROOT)) > 10
    assert violations(ROOT) == []


CLEAN = {
    "mobilenas/__init__.py": "__version__ = '0'",
    "mobilenas/core/errors.py": "",
    "mobilenas/core/_torchvision.py": "from torchvision import models",
    "mobilenas/nn/__init__.py": "from mobilenas.nn.blocks import Block",
    "mobilenas/nn/blocks.py": "from mobilenas.core.errors import MobileNASError\nclass Block: pass",
    "mobilenas/search/__init__.py": "from mobilenas.search.loop import search",
    "mobilenas/search/loop.py": "from mobilenas.nn import Block, blocks\ndef search(): ...",
    "cli/__init__.py": "",
    "cli/main.py": "from . import render\nfrom mobilenas.search import search",
    "cli/render.py": "import mobilenas.core.errors",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in (CLEAN | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_clean_tree_passes(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "mobilenas/nn/blocks.py",
            "import mobilenas.search.loop",
            "mobilenas.nn imports",
        ),
        (
            "mobilenas/nn/blocks.py",
            "from mobilenas.search import search",
            "mobilenas.nn imports",
        ),
        (
            "mobilenas/nn/blocks.py",
            "from ..search import loop",
            "imports mobilenas.search.loop",
        ),
        (
            "mobilenas/nn/blocks.py",
            "def f():\n    from mobilenas import search",
            ":2: mobilenas.nn",
        ),
        (
            "mobilenas/nn/blocks.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mobilenas.search",
            ":3: mobilenas.nn imports mobilenas.search, which",
        ),
        (
            "mobilenas/search/loop.py",
            "from mobilenas.cli import render",
            "imports mobilenas.cli.render",
        ),
        ("mobilenas/search/loop.py", "from cli import render", "installed as mobilenas.cli"),
        ("mobilenas/search/loop.py", "import torchvision.models", "imports torchvision"),
        ("cli/main.py", "def f():\n    from torchvision import ops", "imports torchvision"),
        ("mobilenas/core/errors.py", "from mobilenas.gone import x", "no module mobilenas.gone"),
        ("mobilenas/oddments.py", "", "mobilenas.oddments is in no package"),
        ("mobilenas/oddments/__init__.py", "", "mobilenas.oddments is in no package"),
        ("mobilenas/nn/blocks.py", "from mobilenas.nn import Block", "circle: "),
        ("cli/render.py", "from .main import main", "circle: "),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    # An import of a higher layer may close a circle, too, which is said after it.
    assert message in violations(plant(tmp_path, {name: text}))[0]


def test_packages_of_one_layer_do_not_import_each_other(tmp_path: Path) -> None:
    files = {
        "mobilenas/supernet/__init__.py": "import mobilenas.channel_graph",
        "mobilenas/channel_graph/__init__.py": "",
    }
    (problem,) = violations(plant(tmp_path, files))
    assert problem.endswith(
        "mobilenas.supernet imports mobilenas.channel_graph, which is not below it"
    )
