"""What a weights file may lack, and what it must not hold."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mobilenas.core.errors import FileError
from mobilenas.nn.weights import load_into

WRITES_COMPLEX = tuple(map(int, version("safetensors").split(".")[:2])) >= (0, 7)


class Net(nn.Module):
    """A layer under two names, a mask, an integer buffer and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.again = self.a
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("places", torch.arange(4))


def content(**changes: Tensor | None) -> dict[str, Tensor]:
    state: dict[str, Tensor | None] = {
        key: value.clone() for key, value in Net().state_dict().items()
    }
    state |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


def loaded(path: Path, tensors: dict[str, Tensor]) -> Net:
    save_file(tensors, path / "w.safetensors")
    net = Net()
    load_into(net, path / "w.safetensors", "the net")
    return net


def test_everything_is_set(tmp_path: Path) -> None:
    given = content(norm__num_batches_tracked=torch.tensor(7))
    state = loaded(tmp_path, given).state_dict()
    assert all(torch.equal(state[key], value) for key, value in given.items())


def test_step_counters_and_second_names_may_be_missing(tmp_path: Path) -> None:
    given = content(norm__num_batches_tracked=None, again__weight=None, again__bias=None)
    net = loaded(tmp_path, given)
    assert torch.equal(net.again.weight, given["a.weight"])
    assert net.norm.num_batches_tracked == 0
    other = content(a__weight=None)
    assert torch.equal(loaded(tmp_path, other).a.weight, other["again.weight"])


def test_names_with_a_prefix_are_told(tmp_path: Path) -> None:
    named = {f"module.{key}" if "." in key else key: value for key, value in content().items()}
    with pytest.raises(FileError, match=r"file has no a\.weight but module\.a\.weight; rename"):
        loaded(tmp_path, named)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_of_torch_save_is_told_how_to_become_one(tmp_path: Path, old: bool) -> None:
    torch.save(content(), tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(FileError, match=r"w\.pt is a torch\.save file.*save_file\(torch\.load\("):
        load_into(Net(), tmp_path / "w.pt", "the net")


def test_half_precision_is_converted(tmp_path: Path) -> None:
    weight = torch.full((4, 3, 1, 1), 0.5, dtype=torch.bfloat16)
    net = loaded(tmp_path, content(a__weight=weight, again__weight=weight.clone()))
    assert net.a.weight.dtype is torch.float32
    assert bool((net.a.weight == 0.5).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a__bias": None, "again__bias": None}, "the net: the file has no a.bias"),
        ({"odd": torch.zeros(1)}, "the model has no odd"),
        ({"a__bias": torch.zeros(5)}, r"a.bias has shape \[5\] in the file and \[4\] in the model"),
        ({"a__bias": torch.full((4,), torch.nan)}, "a.bias holds numbers that are NaN, infinite"),
        ({"norm__weight": torch.tensor([1, 1, torch.inf, 1])}, "norm.weight holds numbers"),
        (
            {"norm__running_mean": torch.full((4,), 1e300, dtype=torch.float64)},
            "norm.running_mean holds",
        ),
        ({"mask": torch.tensor([-torch.inf, 0])}, "mask holds numbers"),
        ({"a__bias": torch.zeros(4, dtype=torch.int32)}, "a.bias is integer in the file"),
        ({"a__bias": torch.zeros(4, dtype=torch.bool)}, "a.bias is boolean in the file"),
        pytest.param(
            {"a__bias": torch.zeros(4, dtype=torch.complex64)},
            "a.bias is complex in the file",
            marks=pytest.mark.skipif(not WRITES_COMPLEX, reason="safetensors before 0.7"),
        ),
        ({"places": torch.arange(4.0)}, "places is floating-point in the file and integer in"),
        ({"norm__num_batches_tracked": torch.tensor(1.0)}, "is floating-point in the file"),
        ({"norm__running_var": torch.tensor([1, 1, -1e-3, 1])}, "running_var holds a negative"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        loaded(tmp_path, content(**changes))


def test_nothing_is_set_where_something_does_not_fit(tmp_path: Path) -> None:
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    save_file(content(norm__running_var=-torch.ones(4)), tmp_path / "w.safetensors")
    with pytest.raises(FileError):
        load_into(net, tmp_path / "w.safetensors", "the net")
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
