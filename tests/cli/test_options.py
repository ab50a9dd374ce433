"""The group, its help, the shared options: what the library says, the options say, too."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mobilenas import __version__
from mobilenas.cli import main as entry
from mobilenas.core.settings import COUNTING_RULE
from mobilenas.pipeline.request import Request

PAIR = ("mobilenet_v2", "mobilenet_v3_small")
COMMANDS = [*([name] for name in entry.COMMANDS), ["profile", "flops"], ["profile", "latency"]]


def command_named(name: str) -> click.Command:
    command = entry.cli.get_command(click.Context(entry.cli), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", ["run", "search"])
def test_every_field_of_a_request_is_an_option(name: str) -> None:
    others = {
        "out",
        "resume",
        "overwrite",
        "dry_run",
        "allowed_models",
        "quiet",
        "as_json",
        "tensorboard",
    }
    given = {param.name for param in command_named(name).params}
    assert given - others - {"help_all"} == {field.name for field in fields(Request)}


def all_commands() -> Iterator[click.Command]:
    for name in entry.COMMANDS:
        command = command_named(name)
        yield from command.commands.values() if isinstance(command, click.Group) else (command,)


def test_an_empty_name_is_no_path() -> None:
    paths = [
        parameter
        for command in all_commands()
        for parameter in command.params
        if isinstance(parameter.type, click.Path)
    ]
    assert len(paths) > 15
    for parameter in paths:
        with pytest.raises(click.BadParameter, match=r"it is empty|'' does not exist"):
            parameter.type.convert("", parameter, None)


def test_flops_and_macs_are_one_option() -> None:
    (flops,) = (param for param in command_named("run").params if param.name == "flops")
    assert flops.opts == ["--flops", "--macs"]


def test_the_list_of_commands_is_complete() -> None:
    for name in entry.COMMANDS:
        assert command_named(name).name == name


def test_the_list_and_the_commands_own_help_say_the_same_verb() -> None:
    for name, line in entry.COMMANDS.items():
        assert line.split()[0] == (command_named(name).help or "").split()[0]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--flops 500k", "flops", 500_000),
        ("--macs 1.5M", "flops", 1_500_000),
        ("--latency 0.5s", "latency", 500.0),
        ("--baselines mobilenet_v2,mobilenet_v3_small,mobilenet_v2", "baselines", PAIR),
        ("--baselines none", "baselines", ()),
        ("--targets cpu,qnn", "targets", ("cpu", "qnn")),
        ("--order 2", "order", 2),
        ("--no-flip", "flip", False),
        ("", "flip", None),
        ("--temperature 1:0.1", "temperature", "1:0.1"),
    ],
)
def test_options_give_the_values_of_the_fields(words: str, name: str, value: object) -> None:
    context = command_named("run").make_context("run", words.split())
    assert context.params[name] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--flops 1M --flops 2M", "given more than once"),
        ("--flops none", "'none' is not a size above zero"),
        ("--latency 8", "'8' is not a time above zero"),
        ("--order two", "'two' is not 1 or 2"),
        ("--rank few", "'few' is not a valid integer"),
        ("--effort most", "'most' is not one of 'quick', 'standard', 'full'"),
    ],
)
def test_options_refuse_what_cannot_be_read(words: str, message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        command_named("run").make_context("run", words.split())


def test_every_command_has_the_same_number_of_threads() -> None:
    commands = [command_named(name) for name in entry.COMMANDS]
    for group in [command for command in commands if isinstance(command, click.Group)]:
        commands += group.commands.values()
    params = [param for command in commands for param in command.params]
    defaults = [param.default for param in params if param.name == "threads"]
    assert len(defaults) > 5 and set(defaults) == {Request(flops=1).threads} == {1}


@pytest.mark.parametrize(("own", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None, policy: str
) -> None:
    environment = {} if own is None else {"OMP_WAIT_POLICY": own}
    monkeypatch.setattr(entry.os, "environ", environment)
    monkeypatch.setattr(entry, "cli", lambda: None)
    entry.main()
    assert environment["OMP_WAIT_POLICY"] == policy


def test_the_version_is_said() -> None:
    result = CliRunner().invoke(entry.cli, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"mobilenas, version {__version__}\n")


def test_the_help_says_the_counting_rule_and_every_command() -> None:
    result = CliRunner().invoke(entry.cli, ["--help"])
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).count(COUNTING_RULE) == 1
    for name in entry.COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_fits_80_columns(words: list[str]) -> None:
    result = CliRunner().invoke(entry.cli, [*words, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: mobilenas {' '.join(words)}")
    assert max(map(len, result.stdout.splitlines())) <= 80


def _imported(words: list[str], status: int) -> set[str]:
    """Return the modules that a command imports, which ends with this status."""
    command = [sys.executable, "-X", "importtime", "-m", "mobilenas", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("words", [*COMMANDS, []], ids=" ".join)
def test_help_imports_neither_torch_nor_rich(words: list[str]) -> None:
    imported = _imported([*words, "--help"], 0)
    assert not {"torch", "numpy", "onnx", "onnxruntime", "ray", "rich.console"} & imported


@pytest.mark.parametrize("command", ["run", "search"])
def test_an_unknown_method_is_refused_before_torch_is_imported(
    command: str, tmp_path: Path
) -> None:
    words = [command, "--data", "digits", "--flops", "1M", "--method", "dart"]
    assert "torch" not in _imported([*words, "--out", str(tmp_path / "run")], 2)
