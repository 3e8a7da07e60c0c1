"""Turns pydantic's findings into the one line that a person needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from openrs.spec.base import IN_WORDS, field_names


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string where nothing is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The finding most likely to be the cause, as `field: what is wrong; way out`, and how many more there are."""
    findings: list[Any] = sorted(error.errors(include_url=False), key=_rank)
    first = findings[0]
    if _rank(first) == 0:
        known = first["ctx"]["expected"]
        return f"schema_version: written by a later openrs (schema {first['input']}, this one reads {known}); upgrade openrs"
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return " ".join((_said(model, first) + more).split())


def _rank(finding: Any) -> int:
    """A later schema explains all else. A misspelt key also makes the right one missing: the unknown key is the cause."""
    if finding["loc"] == ("schema_version",) and finding["type"] == "literal_error" and type(finding["input"]) is int:
        return 0 if finding["input"] > int(finding["ctx"]["expected"]) else 2
    return 1 if finding["type"] == "extra_forbidden" else 2


def _said(model: type[BaseModel], finding: Any) -> str:
    """One finding in words."""
    place, owner, annotation = _place(model, finding["loc"])
    kind, value, context = finding["type"], finding.get("input"), finding.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(finding["loc"][-1])
        return f"{place}: unknown key{nearest(key, field_names(owner)) if owner else ''}"
    if kind == "missing":
        return f"{place}: missing; it has no default"
    if kind == "json_invalid":
        return f"no whole JSON ({context.get('error')}): the file was cut or changed; put a copy of it there, or move it away"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = list(_choices(_strip(annotation)))
        given = value.get("type") if isinstance(value, dict) else None
        if given is None:
            return f"{place}: needs a `type`, one of {', '.join(tags)}"
        return f"{place}.type: {_short(given)} is not one of {', '.join(tags)}{nearest(str(given), tags)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        text = f"must be a mapping{_form(annotation, value)}, not {_short(value)}"
    elif kind in ("too_short", "string_too_short") and not value:
        text = "must not be empty"
    elif kind == "string_pattern_mismatch" and context["pattern"] in IN_WORDS:
        words = IN_WORDS[context["pattern"]]
        # What stands in the place of a reference may be the secret itself.
        text = f"must be {words}" if "secret" in words else f"must be {words}; not {_short(value)}"
    else:
        message = finding["msg"].removeprefix("Value error, ")
        text = message[:1].lower() + message[1:]
        if kind != "value_error" or _is_plain(value):
            text += f", not {_short(value)}"
    return f"{place}: {text}" if place else text


def _form(annotation: Any, value: Any) -> str:
    """How a mapping of that type is written: what it must have, or some of what it may have."""
    annotation = _strip(annotation)
    choices = _choices(annotation)
    model = choices.get(value if isinstance(value, str) else "", next(iter(choices.values()), annotation))
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    fields = model.model_fields
    shown = {name: "…" for name, info in fields.items() if info.is_required()}
    if "type" in shown:
        shown["type"] = str(get_args(fields["type"].annotation)[0])
    if len(shown) < 2:
        shown |= {name: info.default for name, info in fields.items() if type(info.default) in (int, float)}
    shown = shown or {next(iter(fields)): "…"}
    pairs = [f"{name}: {text}" for name, text in shown.items()]
    return f" such as {{{', '.join(pairs[:3])}{', …' if len(pairs) > 3 else ''}}}"


def _is_plain(value: Any) -> bool:
    """Whether showing the value helps: whole mappings and models do not fit into a line."""
    return isinstance(value, (str, int, float, bool)) or value is None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None, Any]:
    """The dotted path of `loc` without pydantic's union tags, the model that owns its last key, and what stands there."""
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
    return ".".join(parts), owner, annotation


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
