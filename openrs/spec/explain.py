"""Turns pydantic's findings into the one line that a person needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from openrs.spec.base import field_names


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string where nothing is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The finding most likely to be the cause, as `field: what is wrong; way out`, and how many more there are."""
    # A misspelt key also makes the right one missing: the unknown key is the cause.
    findings = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    first = findings[0]
    place, owner = _place(model, first["loc"])
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        key = str(first["loc"][-1])
        text = f"{place}: unknown key{nearest(key, field_names(owner)) if owner else ''}"
    elif kind == "missing":
        text = f"{place}: missing; it has no default"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [
            tag.strip("' ") for tag in str(first.get("ctx", {}).get("expected_tags", "")).split(",") if tag.strip("' ")
        ]
        given = value.get("type") if isinstance(value, dict) else value
        text = (
            f"{place}.type: {_short(given)} is not one of {', '.join(tags)}{nearest(str(given), tags)}"
            if tags
            else f"{place}: needs a `type`"
        )
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        text = f"{place}: {message}" + (
            "" if kind == "value_error" and not _is_plain(value) else f", not {_short(value)}"
        )
        text = text.removeprefix(": ")
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return " ".join((text + more).split())


def _is_plain(value: Any) -> bool:
    """Whether showing the value helps: whole mappings and models do not fit into a line."""
    return isinstance(value, (str, int, float, bool)) or value is None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None]:
    """The dotted path of `loc` without pydantic's union tags, and the model that owns its last key."""
    parts: list[str] = []
    annotation: Any = model
    owner: type[BaseModel] | None = model
    for key in loc:
        annotation = _strip(annotation)
        choices = _choices(annotation)
        if isinstance(key, str) and key in choices and len(choices) > 1:
            annotation = choices[key]  # a union's tag, which the user never wrote as a key
            continue
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner = annotation
            info = annotation.model_fields.get(str(key))
            annotation = info.annotation if info else None
        else:
            args = get_args(annotation)
            annotation = args[-1] if args else None
        if key != "[key]":
            parts.append(str(key))
    return ".".join(parts), owner


def _strip(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(rest) == 1:
            return _strip(rest[0])
    return annotation


def _choices(annotation: Any) -> dict[str, type[BaseModel]]:
    """Tag → model of a union discriminated by `type`."""
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    models = [
        arg
        for arg in get_args(annotation)
        if isinstance(arg, type) and issubclass(arg, BaseModel) and "type" in arg.model_fields
    ]
    return {str(get_args(model.model_fields["type"].annotation)[0]): model for model in models}
