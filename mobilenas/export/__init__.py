"""ONNX files: export, checks, prediction. Imports nothing: `predict` does without torch."""
