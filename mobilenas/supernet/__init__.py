"""Shared by the supernets of all families: channel samplers and schedules."""
