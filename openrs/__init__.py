"""openrs: small-budget reinforcement learning for reasoning models, on the cluster you already have."""

__version__ = "0.1.0"
