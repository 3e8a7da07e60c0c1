"""Cells: a checkpoint on a benchmark with a seed. Started as `python -m openrs.evaluation STAGE.json --task I`."""
