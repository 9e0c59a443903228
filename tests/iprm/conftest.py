"""Fixtures of the modules' tests."""

from fake_graphs import device

__all__ = ["device"]
