"""ONNX files: export, checks, prediction. Imports nothing, since `predict` needs no torch."""

OPSET = 18
"""The exporter's native opset, written without conversion and read by older phone runtimes."""
