"""Weights: memory layout, and loading from files, which are checked first."""

import io
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mobilenas.core.errors import FileError, first_line
from mobilenas.core.files import OTHER_FORM, read_bytes

_TORCH_FILES = (b"PK\x03\x04", b"\x80")
"""First bytes of torch.save files: zip archives since torch 1.6, before that pickles."""
_HEADER = 8
"""Offset of the JSON in a safetensors file. The length before it may begin with \\x80, too."""


def lay_out(
    module: nn.Module, memory_format: torch.memory_format, device: str | None = None
) -> None:
    """Convert 4-dimensional weights to a memory format, and move all to a device if one is given.

    ValueError or RuntimeError if weights have no such format, such as 5-dimensional ones.
    """
    # torch's stubs do not know `memory_format`
    module.to(device, memory_format=memory_format)  # type: ignore[call-overload]


def load_into(
    module: nn.Module,
    path: Path,
    name: str,
    *,
    in_file: Mapping[str, str] | None = None,
    torch_files: bool = False,
) -> None:
    """Set all parameters and buffers of `module` from a file; errors call the module `name`.

    `in_file` maps the module's names of tensors to the file's, where they differ. torch.save files
    are read only with `torch_files`, and only if they hold nothing but tensors. The file may lack
    the step counters of norms, as older files do, and all but one name of a shared tensor.
    FileError names the first tensor that is missing, unknown, of another shape or kind of number,
    not finite, or a negative variance.
    """
    tensors = _read(path, torch_files=torch_files)
    names = {key: (in_file or {}).get(key, key) for key in module.state_dict()}
    own = {names[key]: tensor for key, tensor in module.state_dict().items()}
    optional = _optional(module, own, tensors, names)
    for key in [*own, *tensors]:
        if key not in tensors and key in optional:
            continue
        problem = f"{'the file' if key in own else 'the model'} has no {key}"
        longer = [other for other in tensors if "." in key and other.endswith(f".{key}")]
        if key in own and longer:
            problem += f" but {longer[0]}; rename its tensors to what they are called in the model"
        if key in own and key in tensors:
            problem = _problem(key, tensors[key], own[key])
        if problem:
            raise FileError(f"{path} does not fit {name}: {problem}")
    for prefix, part in module.named_modules():
        key = f"{prefix}.running_var".lstrip(".")
        key = names.get(key, key)
        if isinstance(part, _NormBase) and key in tensors and bool((tensors[key] < 0).any()):
            raise FileError(f"{path}: {key} holds a negative variance")
    given = {key: tensors[names[key]] for key in names if names[key] in tensors}
    module.load_state_dict(given, strict=False)


def _read(path: Path, *, torch_files: bool) -> dict[str, Tensor]:
    content = read_bytes(path)
    is_torch = content.startswith(_TORCH_FILES) and content[_HEADER : _HEADER + 1] != b"{"
    if is_torch and torch_files:
        return _read_torch(content, path)
    if is_torch:
        raise FileError(
            f"{path} is a torch.save file, which can contain code; write its state dict as "
            "safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
        )
    try:
        return load_tensors(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise FileError(f"{path} is not a complete safetensors file: {error}") from error


def _read_torch(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about what is rejected below
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} is refused: it holds code or other objects besides tensors, or is damaged; "
            "it must be a state dict"
        ) from error
    except (*OTHER_FORM, struct.error) as error:
        raise FileError(
            f"{path} is not a complete torch.save file: {first_line(error):.200}"
        ) from error
    if not isinstance(state, dict):
        raise FileError(f"{path} holds a {type(state).__name__}; it must hold a state dict")
    for key, value in state.items():
        if not isinstance(key, str) or not _is_plain(value):
            raise FileError(
                f"{path} is not a state dict: {key!r} is a {type(value).__name__}, not a dense "
                "tensor under a name"
            )
    return state


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _optional(
    module: nn.Module,
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
) -> set[str]:
    """Return the keys that a file may lack: step counters of norms, and shared tensors it has."""
    counters = {
        names.get(key, key)
        for prefix, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, _NormBase)
        for key in [f"{prefix}.num_batches_tracked".lstrip(".")]
    }
    places = {_place(own[key]) for key in tensors if key in own}
    return counters | {key for key in own if _place(own[key]) in places}


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def _problem(key: str, given: Tensor, own: Tensor) -> str:
    """Return what is wrong with a tensor of the file; empty if it can be used."""
    if given.shape != own.shape:
        have, want = list(given.shape), list(own.shape)
        return f"{key} has shape {have} in the file and {want} in the model"
    if _kind(given) != _kind(own):
        return f"{key} is {_kind(given)} in the file and {_kind(own)} in the model"
    if own.is_floating_point():
        value = given.to(own.dtype)
        # a mask in the model may hold infinity
        if bool((~value.isfinite() & (value != own)).any()):
            return f"{key} holds numbers that are NaN, infinite or too large"
    return ""


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating-point"
    if tensor.is_complex():
        return "complex"
    return "boolean" if tensor.dtype is torch.bool else "integer"
