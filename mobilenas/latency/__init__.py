"""Measured latency. Imports nothing, since the measuring process and `predict` need no torch."""
