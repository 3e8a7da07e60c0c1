"""Rewards: functions of completions, one a file, found by name.

`get("accuracy")` and its like give `f(completions, **columns) -> list[float | None]`, the signature of TRL's reward
functions. `completions` are strings or chat messages; `columns` are lists of the same length, from the data set
(`answer` or `solution`) and from the sampler (`completion_ids`). None says that a reward does not apply.

A new reward is a spec model in `openrs.spec.experiment`, a file here with `make(spec, …)`, and a line in `_MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from openrs.errors import BadInput
from openrs.rewards import accuracy, cosine, format, random
from openrs.rewards.base import CountTokens, RewardFunction
from openrs.spec.base import Strict, field_names
from openrs.spec.experiment import AccuracyReward, CosineReward, FormatReward, RandomReward, Reward
from openrs.spec.explain import explain, nearest

__all__ = ["RewardFunction", "build", "get", "names"]

_MAKERS: dict[str, tuple[type[Strict], Callable[[Any, CountTokens | None], RewardFunction]]] = {
    "accuracy": (AccuracyReward, accuracy.make),
    "cosine": (CosineReward, cosine.make),
    "format": (FormatReward, format.make),
    "random": (RandomReward, random.make),
}


def names() -> list[str]:
    """Every reward that `get` knows, sorted."""
    return sorted(_MAKERS)


def get(name: str, *, count_tokens: CountTokens | None = None, **params: Any) -> RewardFunction:
    """The reward with that name. `params` are the fields that a spec may give it, with the same defaults.

    `count_tokens` tells the length of a text in tokens, for rewards that need it and are called without
    `completion_ids`. Raises BadInput for an unknown name or parameter and for a value that does not fit.
    """
    if name not in _MAKERS:
        raise BadInput(f"unknown reward {name!r}{nearest(name, _MAKERS)}; known are {', '.join(names())}")
    model, make = _MAKERS[name]
    known = [field for field in field_names(model) if field not in ("type", "weight")]
    for key in params:
        if key not in known:
            # The weight belongs to the sum of rewards, not to the reward.
            way_out = nearest(key, known) or f"; it takes {', '.join(known) or 'none'}"
            raise BadInput(f"reward {name}: unknown parameter {key!r}{way_out}")
    try:
        spec = model.model_validate({"type": name, **params})
    except ValidationError as error:
        raise BadInput(f"reward {name}: {explain(model, error)}") from None
    return make(spec, count_tokens)


def build(spec: Reward) -> RewardFunction:
    """The reward that a spec describes, unweighted."""
    return _MAKERS[spec.type][1](spec, None)
