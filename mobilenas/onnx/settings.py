"""Legal values of settings for ONNX files."""

from typing import Literal, get_args

Precision = Literal["fp32", "int8"]
"""float32, or int8 weights and uint8 activations."""
Target = Literal["cpu", "xnnpack", "qnn", "nnapi", "coreml"]
"""Execution providers of onnxruntime on phones."""
Layout = Literal["float-nchw", "uint8-nhwc"]
"""Type and layout of a file's input."""
FLOAT_NCHW: Layout = "float-nchw"
"""float32 [1, C, S, S], normalized by the metadata's mean and std."""
UINT8_NHWC: Layout = "uint8-nhwc"
"""uint8 [1, S, S, C], 0 to 255; the graph normalizes by the same mean and std."""
Calibration = Literal["minmax", "entropy", "percentile"]
"""How the range of an activation is computed from its values on calibration images."""
Int8Weights = Literal["per-channel", "per-tensor"]
"""Which weights share a scale."""
PER_CHANNEL: Int8Weights = "per-channel"
Correction = Literal["equalize", "bias"]
"""`equalize_ranges` and `correct_biases` of `mobilenas.onnx.int8`."""
EQUALIZE: Correction = "equalize"
BIAS: Correction = "bias"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGETS: tuple[Target, ...] = get_args(Target)
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)
PROVIDER = "CPUExecutionProvider"
"""onnxruntime's execution provider that all machines have."""
