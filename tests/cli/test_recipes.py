"""The table of training recipes."""

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from mobilenas.cli.main import cli
from mobilenas.core.setting import settings_of
from mobilenas.train.recipe import Recipe
from mobilenas.train.recipes import RECIPES

FIELDS = [one.name for one in settings_of(Recipe)]


def answer(*words: str) -> str:
    result = CliRunner().invoke(cli, ["recipes", *words], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_has_every_recipe_with_every_field() -> None:
    lines = answer().splitlines()
    assert lines[1].split() == ["field", *RECIPES]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3 : 3 + len(FIELDS)]}
    assert list(rows) == FIELDS
    assert rows["batch_size"] == ["128/32", "128/32", "128/32", "32", "96", "96"]
    assert rows["learning_rate"][:2] == ["0.5/0.05", "0.2/0.05"]
    assert rows["trivialaugment"] == ["no", "no", "yes", "no", "no", "no"]
    assert rows["crop_scale"] == ["-", "-", "0.35", "-", "-", "0.35"]
    assert "cifar-darts: networks of cells" in " ".join(lines)


def test_json_has_the_values_of_large_and_of_small_sets() -> None:
    found = json.loads(answer("--json"))
    assert list(found) == list(RECIPES)
    assert all(list(row["fields"]) == FIELDS for row in found.values())
    assert found["photo"]["small_set"] == {"batch_size": 32, "learning_rate": 0.05}
    assert found["mobilenet"]["fields"]["ema_decay"] == 0.9999
    assert found["mobilenet"]["small_set"] == {}


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mobilenas", "recipes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "scratch-small" in done.stdout
    assert "mobilenas.train.recipes" in imported
    assert "torch" not in imported
