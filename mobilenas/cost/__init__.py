"""Costs of networks, and budgets."""
