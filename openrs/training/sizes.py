"""Sizes that the trainer works with and the memory plan counts with. Imports no torch."""

from __future__ import annotations

import math

LOGITS_BLOCK = 2**26
"""Logits (tokens × vocabulary) that are held at once: 256 MiB in float32."""

ZERO_BUCKET = 100_000_000
"""Gradients that ZeRO reduces at once; with the overlap of communication it holds two such buckets."""

KV_BLOCK_TOKENS = 16
"""Tokens in a block of vLLM's KV cache."""


def kv_blocks(sequences: int, window: int) -> int:
    """Blocks of the KV cache that hold `sequences` of `window` tokens each, and the 1 % that admission leaves free."""
    return math.ceil(sequences * math.ceil(window / KV_BLOCK_TOKENS) / 0.98) + 1
