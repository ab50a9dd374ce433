"""Measured latency. Imports nothing: the measuring process and `predict` do without torch."""
