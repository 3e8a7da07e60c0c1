"""Rewards: functions of completions, one a file, found by name.

`get("accuracy")` and its like give `f(completions, **columns) -> list[float | None]`, the signature of TRL's reward
functions. `completions` are strings or chat messages; `columns` are lists of the same length, from the data set
(`answer` or `solution`) and from the sampler (`prompts`, `completion_ids`). None says that a reward does not apply.

A new reward is one file here, with a subclass of `RewardSpec`: it is found by itself, and its fields are what an
experiment's YAML may say.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import Field, ValidationError

from openrs.errors import BadInput
from openrs.rewards.base import CountTokens, RewardFunction, RewardSpec
from openrs.spec.base import field_names
from openrs.spec.explain import explain, nearest

__all__ = ["Reward", "RewardFunction", "RewardSpec", "build", "get", "names", "specs"]


def _find() -> dict[str, type[RewardSpec]]:
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, type[RewardSpec]] = {}
    waiting: list[type[RewardSpec]] = [RewardSpec]
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        for name in get_args(model.model_fields["type"].annotation):  # Literal["…"]; none for what is only a base
            found[str(name)] = model
    return dict(sorted(found.items()))


_SPECS = _find()

if TYPE_CHECKING:
    Reward = RewardSpec
else:
    Reward = Annotated[Union[tuple(_SPECS.values())], Field(discriminator="type")]  # noqa: UP007  (they are known at run time)


def names() -> list[str]:
    """Every reward that `get` knows, sorted."""
    return list(_SPECS)


def specs() -> Mapping[str, type[RewardSpec]]:
    """Name → model of what a spec may say of that reward."""
    return dict(_SPECS)


def get(
    name: str, *, form: str = "corrected", count_tokens: CountTokens | None = None, **params: Any
) -> RewardFunction:
    """The reward with that name. `params` are the fields that a spec may give it, with the same defaults.

    `form="as-shipped"` computes what the code of Open-RS does, with its defects and its defaults. `count_tokens` tells
    the length of a text in tokens, for rewards that need it and are called without `completion_ids`. Raises BadInput
    for an unknown name or parameter and for a value that does not fit.
    """
    if name not in _SPECS:
        raise BadInput(f"unknown reward {name!r}{nearest(str(name), _SPECS)}; known are {', '.join(names())}")
    model = _SPECS[name]
    known = [field for field in field_names(model) if field not in ("type", "weight", "form")]
    for key in params:
        if key not in known:
            # The weight belongs to the sum of rewards, not to the reward.
            way_out = nearest(key, known) or f"; it takes {', '.join([*known, 'form'])}"
            raise BadInput(f"reward {name}: unknown parameter {key!r}{way_out}")
    try:
        spec = model.model_validate({"type": name, "form": form, **params})
    except ValidationError as error:
        raise BadInput(f"reward {name}: {explain(model, error)}") from None
    return build(spec, count_tokens)


def build(spec: RewardSpec, count_tokens: CountTokens | None = None) -> RewardFunction:
    """The reward that a spec describes, unweighted."""
    function = spec.function(count_tokens)
    function.__name__ = spec.type
    return function
