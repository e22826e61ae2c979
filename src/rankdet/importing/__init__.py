"""Checkpoints of other programs become checkpoints here."""

from .origins import convert

__all__ = ["convert"]
