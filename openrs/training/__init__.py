"""GRPO on the ranks of one job: `python -m openrs.training STAGE.json`, one process a rank, started by the supervisor."""
