"""The numbers of a model that decide what it costs, from its config.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrs.data.load import model_path
from openrs.errors import BadInput
from openrs.runs.files import read_object
from openrs.spec.parts import HubModel, Model

KNOWN: dict[str, dict[str, Any]] = {
    # The paper's model, so that its experiments can be planned before it is fetched: its config.json, abridged.
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}

ATTENTION_BIAS = {"qwen2": True, "llama": False, "mistral": False}
"""Model types whose parameters are counted here, and whether query, key and value have biases."""


@dataclass(frozen=True)
class Shape:
    """A decoder with gated feed-forward layers and grouped keys."""

    layers: int
    hidden: int
    intermediate: int
    key_width: int
    """Key heads × their width; values have the same."""
    query_width: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    bias: bool

    @property
    def head(self) -> int:
        """Parameters of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.key_width
        attention += (self.query_width + 2 * self.key_width) * self.bias
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + self.head * (1 if self.tied else 2)

    def kv_bytes(self, size: int) -> int:
        """Bytes of keys and values of one token, `size` bytes a number."""
        return 2 * self.layers * self.key_width * size


def shape_of_config(config: dict[str, Any]) -> Shape | None:
    """The shape that a config.json describes; None for a model type that is not known here."""
    kind = config.get("model_type")
    if kind not in ATTENTION_BIAS:
        return None
    try:
        heads = int(config["num_attention_heads"])
        width = int(config.get("head_dim") or config["hidden_size"] // heads)
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            key_width=int(config.get("num_key_value_heads") or heads) * width,
            query_width=heads * width,
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            bias=ATTENTION_BIAS[kind],
        )
    except (KeyError, TypeError, ValueError):
        return None


def shape_of(model: Model) -> Shape | None:
    """The shape of a spec's model, as far as this machine can tell: from its directory, or from the Hub's cache."""
    if isinstance(model, HubModel):
        config = read_object(cached(model.name, model.revision) / "config.json") or KNOWN.get(model.name)
    else:
        try:
            config = read_object(Path(model_path(model)[0]) / "config.json")
        except BadInput:  # on another machine
            config = None
    return shape_of_config(config) if config else None


def cached(name: str, revision: str) -> Path:
    """Where the Hub's cache of this user has a model's files, if it has them."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / revision
    return repository / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision)
