"""The model whose channel sizes are searched: from torchvision, or from a user's function."""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mobilenas.channel_graph.tracing import BATCH, trace
from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted
from mobilenas.nn.weights import load_into

TORCHVISION = "torchvision:"
"""Prefix of torchvision classification models."""
FORMS = "torchvision:NAME or package.module:factory"
"""Legal forms of a model's name."""

_FACTORY = re.compile(r"\w+(\.\w+)*:\w+")
_allowed: set[str] = set()

# Without auxiliary classifiers, which are a second output. init_weights is set because torchvision
# warns if it is not; True is the published initialization.
_OPTIONS: dict[str, dict[str, object]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def load_model(
    spec: str,
    *,
    classes: int | None,
    image_size: int,
    in_channels: int = 3,
    weights: Path | None = None,
) -> nn.Module:
    """Build the model that `spec` names, and load its weights if a file is given.

    `torchvision:NAME` is built for `classes` (None: torchvision's default), without pretrained
    weights. `package.module:factory` is called without arguments, with the current folder on the
    import path. MobileNASError if the model cannot be built, or does not map images [N,
    in_channels, image_size, image_size] to logits [N, classes].
    """
    if spec.startswith(TORCHVISION):
        model = _from_torchvision(spec.removeprefix(TORCHVISION), classes)
    else:
        model = _from_factory(spec)
    if any(map(is_lazy, model.parameters())):
        _materialize(model, spec, torch.zeros(BATCH, in_channels, image_size, image_size))
    if weights is not None:
        load_into(model, weights, spec)
    traced = trace(model, image_size=image_size, in_channels=in_channels)
    (last,) = (node for node in traced.graph.nodes if node.op == "output")
    logits = traced.results[last].shape[1]
    if classes is not None and logits != classes:
        raise MobileNASError(
            f"{spec} gives {counted(logits, 'logit')}; the data has {classes} classes"
        )
    return model


def check_name(spec: str) -> None:
    """Raise unless `spec` has one of the two forms."""
    if not spec.startswith(TORCHVISION) and _FACTORY.fullmatch(spec) is None:
        raise MobileNASError(f"model is {spec!r}; it must be {FORMS}")


def check_exists(spec: str) -> None:
    """Raise unless torchvision has the model or the factory can be imported; none is built."""
    if spec.startswith(TORCHVISION):
        _check_known(spec.removeprefix(TORCHVISION))
    else:
        _factory(spec)


def allow_model(spec: str) -> None:
    """Allow files to name this factory until the process ends."""
    _allowed.add(spec)


def check_allowed(spec: str) -> None:
    """Raise for a factory that a file names and the user has not allowed, as it is run code."""
    check_name(spec)
    if not spec.startswith(TORCHVISION) and spec not in _allowed:
        raise MobileNASError(
            f"a file names the model {spec}, which is code that would be run; if you trust it, "
            f"add --allow-model {spec}"
        )


def _check_known(name: str) -> None:
    from mobilenas.core._torchvision import models  # takes two seconds, and few commands need it

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "try mobilenet_v2"
        raise MobileNASError(f"torchvision has no classification model {name!r}; {hint}")


def _from_torchvision(name: str, classes: int | None) -> nn.Module:
    from mobilenas.core._torchvision import models

    _check_known(name)
    options = _OPTIONS.get(name, {})
    if classes is not None:
        options = options | {"num_classes": classes}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _factory(spec: str) -> Callable[[], object]:
    check_name(spec)
    module_name, _, name = spec.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # a script may exit on import  # the user's code
            raise MobileNASError(
                f"cannot import {module_name} of {spec}: {_reason(error)}"
            ) from error
    factory: object = getattr(module, name, None)
    if not callable(factory):
        what = "has no" if factory is None else "has no function"
        raise MobileNASError(f"{module_name} {what} {name!r}, which {spec} names")
    return factory


def _from_factory(spec: str) -> nn.Module:
    factory = _factory(spec)
    with _current_folder_importable():
        try:
            model = factory()
        except (Exception, SystemExit) as error:  # the user's code
            raise MobileNASError(f"{spec} failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise MobileNASError(f"{spec} returned a {type(model).__name__}; it must be an nn.Module")
    return model


def _materialize(model: nn.Module, spec: str, images: torch.Tensor) -> None:
    """Initialize lazy layers by a forward pass."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    except Exception as error:  # the user's code
        side = images.shape[-1]
        raise MobileNASError(
            f"the lazy layers of {spec} get no shape from {side}x{side} images: {_reason(error)}"
        ) from error
    model.train(training)


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    # an installed script has only its own folder on the path
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
