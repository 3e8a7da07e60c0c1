"""Evaluation cells: one checkpoint on one benchmark with one seed. `python -m openrs.evaluation STAGE.json --task I`."""
