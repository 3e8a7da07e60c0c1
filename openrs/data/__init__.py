"""Data sets that openrs makes itself."""
