"""What a training step will need, before it runs: memory and time, from a model's shape. Imports no torch."""
