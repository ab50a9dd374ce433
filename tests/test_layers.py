"""The layer table of docs/design.md, held against the code's own imports.

A file imports `mobilenas` modules from its own layer or a lower one, and no chain of imports comes
back to its start. Imports inside functions and under `if TYPE_CHECKING` count like all others.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCHVISION_DOOR = "mobilenas._torchvision"

# The longest entry that a module's name starts with decides; `=` means that module alone.
LAYERS = {
    "=mobilenas": 0,
    "mobilenas._torchvision": 0,
    "mobilenas.config": 0,
    "mobilenas.records": 0,
    "mobilenas.errors": 0,
    "mobilenas.files": 0,
    "mobilenas.folders": 0,
    "mobilenas.images": 0,
    "mobilenas.progress": 0,
    "mobilenas.data": 1,
    "mobilenas.dependencies": 1,
    "mobilenas.nn": 1,
    "mobilenas.spaces": 2,
    "mobilenas.cost": 3,
    "mobilenas.profiling": 3,
    "mobilenas.supernet": 4,
    "mobilenas.channels": 5,
    "mobilenas.compare": 5,
    "mobilenas.export": 5,
    "mobilenas.search": 5,
    "mobilenas.train": 5,
    "mobilenas.ablation": 6,
    "mobilenas.comparison": 6,
    "mobilenas.contenders": 6,
    "mobilenas.dry_run": 6,
    "mobilenas.estimate": 6,
    "mobilenas.deployment": 6,
    "mobilenas.formats": 6,
    "mobilenas.pipeline": 6,
    "mobilenas.quantization": 6,
    "mobilenas.request": 6,
    "mobilenas.request_channels": 6,
    "mobilenas.resuming": 6,
    "mobilenas.runs": 6,
    "mobilenas.sweep": 6,
    "mobilenas.__main__": 7,
    "mobilenas.cli": 7,
}


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


def layer_of(module: str) -> int | None:
    """The layer of a module, or None for one that the table does not know."""
    if f"={module}" in LAYERS:
        return LAYERS[f"={module}"]
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (layer := LAYERS.get(".".join(parts[:length]))) is not None:
            return layer
    return None


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
        layer = layer_of(module)
        place = path.relative_to(root)
        if layer is None:
            problems.append(f"{place}: {module} is in no layer of docs/design.md")
            continue
        graph[module] = set()
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
            target_layer = layer_of(target)
            if target_layer is not None and target_layer > layer:
                problems.append(f"{line}: layer {layer} imports {target} of layer {target_layer}")
    return problems + circles(graph)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The first circle found among the imports, as one line."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["circle: " + " <- ".join(error.args[1])]
    return []


def test_the_code_keeps_the_layer_table() -> None:
    assert len(module_files(ROOT)) > 10
    assert violations(ROOT) == []


CLEAN = {
    "mobilenas/__init__.py": "__version__ = '0'",
    "mobilenas/errors.py": "",
    "mobilenas/_torchvision.py": "from torchvision import models",
    "mobilenas/nn/__init__.py": "from mobilenas.nn.blocks import Block",
    "mobilenas/nn/blocks.py": "from mobilenas.errors import MobileNASError\nclass Block: pass",
    "mobilenas/search/__init__.py": "from mobilenas.search.loop import search",
    "mobilenas/search/loop.py": "from mobilenas.nn import Block, blocks\ndef search(): ...",
    "cli/__init__.py": "",
    "cli/main.py": "from . import render\nfrom mobilenas.search import search",
    "cli/render.py": "import mobilenas.errors",
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
        ("mobilenas/nn/blocks.py", "import mobilenas.search.loop", "layer 1 imports"),
        ("mobilenas/nn/blocks.py", "from mobilenas.search import search", "layer 1 imports"),
        ("mobilenas/nn/blocks.py", "from ..search import loop", "search.loop of layer 5"),
        ("mobilenas/nn/blocks.py", "def f():\n    from mobilenas import search", ":2: layer 1"),
        (
            "mobilenas/nn/blocks.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mobilenas.search",
            ":3: layer 1 imports mobilenas.search of layer 5",
        ),
        ("mobilenas/search/loop.py", "from mobilenas.cli import render", "layer 5 imports"),
        ("mobilenas/search/loop.py", "from cli import render", "installed as mobilenas.cli"),
        ("mobilenas/search/loop.py", "import torchvision.models", "imports torchvision"),
        ("cli/main.py", "def f():\n    from torchvision import ops", "imports torchvision"),
        ("mobilenas/errors.py", "from mobilenas.gone import x", "no module mobilenas.gone"),
        ("mobilenas/oddments.py", "", "mobilenas.oddments is in no layer"),
        ("mobilenas/oddments/__init__.py", "", "mobilenas.oddments is in no layer"),
        ("mobilenas/nn/blocks.py", "from mobilenas.nn import Block", "circle: "),
        ("cli/render.py", "from .main import main", "circle: "),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    # An import of a higher layer may close a circle, too, which is said after it.
    assert message in violations(plant(tmp_path, {name: text}))[0]


def test_a_circle_through_three_rooms_of_one_layer_is_found(tmp_path: Path) -> None:
    rooms = ("train", "export", "compare", "train")
    files = {
        f"mobilenas/{room}/__init__.py": f"import mobilenas.{neighbour}"
        for room, neighbour in pairwise(rooms)
    }
    assert [line.partition(":")[0] for line in violations(plant(tmp_path, files))] == ["circle"]
