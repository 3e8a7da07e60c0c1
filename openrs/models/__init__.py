"""Models that ship with openrs. ``TINY_SUMS`` is the directory of the smoke experiment's base model."""

from pathlib import Path

TINY_SUMS = Path(__file__).parent / "tiny-sums"
