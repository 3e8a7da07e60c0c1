"""GRPO on the ranks of a job: the supervisor starts `python -m openrs.training STAGE.json`, one process a rank."""
