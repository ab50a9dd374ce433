"""ONNX files: export, checks, prediction. Imports nothing: `predict` does without torch."""

OPSET = 18
"""The exporter's own opset: it writes it without converting, and older phone runtimes read it."""
