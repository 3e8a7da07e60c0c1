"""What may change in an experiment while a run of it goes on: only what decides nothing about its result."""

from __future__ import annotations

from typing import Any, TypeVar

from openrs.errors import BadInput
from openrs.spec.canonical import canonical, sha256
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.load import apply_overrides, validate
from openrs.spec.paths import shortened

S = TypeVar("S", bound=Spec)

HARMLESS = (
    "title",
    "checkpoint",
    "recovery",
    "tracking",
    "training.log_completions",
    "resources.cpus",
    "resources.memory_gb",
    "resources.minutes",
    "evaluation.resources",
)
"""Fields, with all below them, that change logging, retention, time and room, and no number."""


def identity(experiment: Experiment) -> str:
    """Hash of all that decides what is trained: two experiments with the same one go through the same steps."""
    content = experiment.model_dump(mode="json")
    del content["evaluation"], content["secrets"]
    for field in HARMLESS:
        *above, last = field.split(".")
        place = content
        for name in above:
            place = place.get(name, {})
        place.pop(last, None)
    return sha256(content)


def changed(before: Spec, now: Spec) -> dict[str, tuple[Any, Any]]:
    """Field → (before, now), for every field that differs; a field that one of them lacks is None there."""
    return dict(_differences("", before.model_dump(mode="json"), now.model_dump(mode="json")))


def with_overrides(spec: S, overrides: list[str]) -> S:
    """A resolved spec with every `a.b=c` laid over it. Raises BadInput."""
    return validate(type(spec), apply_overrides(spec.model_dump(mode="json"), overrides), spec.name)


def check_change(run: str, sent: Spec, now: Spec, allow: bool) -> dict[str, tuple[Any, Any]]:
    """What differs, where a run may go on with it. Raises BadInput, which names the field, where it may not."""
    fields = changed(sent, now)
    grave = [field for field in fields if not is_harmless(field)]
    if grave or (fields and not allow):
        field = (grave or list(fields))[0]
        was, is_now = (shortened(canonical(value)) for value in fields[field])
        others = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        way = (
            "a run goes on only as it began: submit the changed experiment as a new run"
            if grave
            else f"that changes no result: `openrs resume {run} --allow-change` goes on with it"
        )
        raise BadInput(f"run {run}: {field} was {was} when it was sent and is {is_now} now{others}; {way}")
    return fields


def is_harmless(field: str) -> bool:
    """Whether a run may go on with another value of this field."""
    return any(field == allowed or field.startswith(f"{allowed}.") for allowed in HARMLESS)


def _differences(where: str, before: Any, now: Any) -> list[tuple[str, tuple[Any, Any]]]:
    if before == now:
        return []
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [(where, (before, now))]
    return [
        difference
        for key in dict.fromkeys([*before, *now])
        for difference in _differences(f"{where}.{key}" if where else key, before.get(key), now.get(key))
    ]
