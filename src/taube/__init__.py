"""Taube: a messaging service that carries every message and hears none."""

__version__ = "0.1.0"
