"""The canonical form of specs, and their hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical(value: BaseModel | Any) -> str:
    """JSON with sorted keys and no spaces: equal specs give equal bytes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: BaseModel | Any) -> str:
    """`sha256:` and 64 hex digits over the canonical form."""
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


def pretty(value: BaseModel | Any) -> str:
    """The same content for people: indented, keys in the order of the model, a newline at the end."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
