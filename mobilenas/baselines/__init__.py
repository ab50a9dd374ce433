"""Baselines of a comparison: MobileNets, random networks, files of other tools."""
