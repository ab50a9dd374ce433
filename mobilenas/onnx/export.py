"""Exports a trained module to ONNX, with metadata, and compares the file with the module."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from mobilenas.core.errors import DataError, FileError
from mobilenas.core.files import write_bytes
from mobilenas.core.settings import counted
from mobilenas.onnx import OPSET
from mobilenas.onnx.classifier import Classifier
from mobilenas.onnx.record import Parity
from mobilenas.onnx.recount import CONSTANT, PARAMETER
from mobilenas.onnx.session import session

if TYPE_CHECKING:
    from onnxscript.ir import Graph

INPUT, OUTPUT = "image", "logits"
"""Names of the graph's input and output."""

TOLERANCE = 1e-2
"""Maximum difference of logits from the module's, relative to the largest logit (at least 1)."""

_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    image_size: int,
    channels: int,
    metadata: dict[str, str],
    dynamic_batch: bool = False,
) -> None:
    """Write a graph `image` float32 [1, C, S, S] -> `logits` [1, classes].

    Normalization is not in the graph but in `metadata` (`ModelMetadata.to_strings`). Constants are
    folded, but neither batch norms nor values computed from parameters (such as a transposed
    weight). So the file has exactly the module's parameters, by name and each once, and other
    tensors are marked, which `count_onnx` relies on. onnxruntime folds the rest when it loads the
    file. FileError names weights that are not finite.
    """
    _check_weights(module, path)
    with _evaluating(module):
        model = _to_proto(module, image_size, channels, dynamic_batch)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    _drop_invented_biases(model, parameters)
    _drop_exporter_notes(model)
    _mark_tensors(model, parameters)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString(deterministic=True))


def _check_weights(module: nn.Module, path: Path) -> None:
    for name, tensor in module.state_dict().items():
        if torch.is_tensor(tensor) and not torch.isfinite(tensor).all():
            raise FileError(f"{path.name} is not written: {name!r} holds NaN or infinity")


def check_parity(
    module: nn.Module, path: Path, batches: Iterable[Tensor], threads: int = 1
) -> Parity:
    """Compare the module with the file in onnxruntime on float32 [N, C, S, S], image by image.

    FileError names a file whose logits differ from the module's, with the difference.
    """
    model = Classifier(path, threads)
    device = next(module.parameters()).device
    difference, largest, same, images = 0.0, 1.0, 0, 0
    alone = 0.0
    with _evaluating(module), torch.inference_mode():
        for batch in batches:
            expected = module(batch.to(device)).cpu().numpy()
            _check_finite(expected, path)
            for image, logits in zip(batch, expected, strict=True):
                found = model.logits(image[None].cpu().numpy())
                apart = float(np.abs(found - logits).max())
                if apart > difference:
                    difference = apart
                    own = module(image[None].to(device)).cpu().numpy()[0]
                    alone = float(np.abs(found - own).max())
                largest = max(largest, float(np.abs(logits).max()))
                same += int(found.argmax() == logits.argmax())
                images += 1
    if not images:
        raise DataError(f"there are no images to compare {path} with its module on")
    parity = Parity(
        max_abs_difference=difference, top1_agreement=100 * same / images, images=images
    )
    _judge(parity, path, largest=largest, alone=alone)
    return parity


def _judge(parity: Parity, path: Path, *, largest: float, alone: float) -> None:
    """Raise if the difference is more than rounding.

    `alone`: the difference from the module's logits without the rest of the batch.
    """
    limit = TOLERANCE * largest
    if parity.max_abs_difference <= limit:
        return
    cause = (
        "the model's answer for an image depends on the other images of its batch (norms without "
        "running statistics, means over the batch?), and a phone gives it one image at a time"
        if alone <= limit
        else "the exporter does not write what the model computes"
    )
    raise FileError(
        f"{path.name} is not the network that was trained: its logits differ from the PyTorch "
        f"model's by up to {parity.max_abs_difference:.3g} (allowed: {limit:.2g}), and on "
        f"{counted(parity.images, 'validation image')} they agree in {parity.top1_agreement:.1f} % "
        "of the "
        f"classes: {cause}"
    )


def _check_finite(logits: NDArray[np.float32], path: Path) -> None:
    if not np.isfinite(logits).all():
        raise FileError(
            f"{path.name} is not written: the PyTorch model gives logits that are not finite"
        )


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def evaluate_onnx(path: Path, batches: Iterable[tuple[Tensor, Tensor]], threads: int = 1) -> float:
    """Return top-1 in percent over (float32 [N, C, S, S], labels [N]), image by image."""
    right, images = 0, 0
    for logits, label in each_logits(path, batches, threads):
        right += int(logits.argmax() == label)
        images += 1
    return 100 * right / images


def each_logits(
    path: Path, batches: Iterable[tuple[Tensor, Tensor]], threads: int = 1
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield logits [classes] and label of every image; DataError if there are none."""
    model = Classifier(path, threads)
    images = 0
    for batch, labels in batches:
        for image, label in zip(batch.cpu().numpy(), labels.tolist(), strict=True):
            yield model.logits(image[None]), label
            images += 1
    if not images:
        raise DataError(f"there are no images to evaluate {path} on")


def read_props(path: Path) -> dict[str, str]:
    """Return the metadata of a file, as passed to `export_onnx`."""
    return dict(session(path).get_modelmeta().custom_metadata_map)


def _to_proto(module: nn.Module, image_size: int, channels: int, dynamic_batch: bool) -> ModelProto:
    # a batch of one would become a constant
    batch = 2 if dynamic_batch else 1
    image = torch.zeros(
        batch, channels, image_size, image_size, device=next(module.parameters()).device
    )
    with quiet(_CHATTY_LOGGERS, DeprecationWarning, FutureWarning):
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
            opset_version=OPSET,
            # the exporter's optimization would also fold batch norms; the passes below do not
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise FileError("torch.onnx.export returned no model")
        import onnxscript.optimizer
        from onnxscript.rewriter import RewriteRuleSet
        from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule

        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        _separate_names(program.model.graph)
        onnxscript.optimizer.fold_constants_ir(
            program.model,
            should_fold=lambda node: (
                False if any(x is not None and x.name in parameters for x in node.inputs) else None
            ),
        )
        # runtimes would run, and quantize, a separate Pad
        RewriteRuleSet([fuse_pad_into_conv_rule]).apply_to_model(program.model)
        onnxscript.optimizer.remove_unused_nodes(program.model)
        return program.model_proto


def _separate_names(graph: "Graph") -> None:
    """Rename values that have the name of a weight: the exporter calls any mean `mean`."""
    taken = set(graph.initializers) | {value.name for value in graph.inputs}
    for number, node in enumerate(graph):
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}_of_node_{number}"


@contextlib.contextmanager
def quiet(names: Sequence[str], *ignored: type[Warning]) -> Iterator[None]:
    """Suppress log messages below errors, and warnings of the `ignored` categories."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category in ignored:
            warnings.simplefilter("ignore", category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _drop_invented_biases(model: ModelProto, parameters: set[str]) -> None:
    """Drop the zero biases that the exporter gives convolutions without bias."""
    zeros = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name not in parameters and not onnx.numpy_helper.to_array(tensor).any()
    }
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _mark_tensors(model: ModelProto, parameters: set[str]) -> None:
    """Mark stored tensors that `count_onnx` would otherwise misjudge as parameters or constants."""
    stored = list(model.graph.initializer)
    for node in model.graph.node:
        stored += [item.t for item in node.attribute if item.name == "value" and item.HasField("t")]
    for tensor in stored:
        if tensor.name not in parameters:
            tensor.doc_string = CONSTANT
        elif not tensor.dims:
            tensor.doc_string = PARAMETER


def _drop_exporter_notes(model: ModelProto) -> None:
    """Drop stack traces and local paths, which are larger than a small network."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for group in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in group:
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
