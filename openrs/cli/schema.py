"""`openrs schema`: JSON Schema of the files that people write, for their editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from openrs.cli.options import Json


class Kind(StrEnum):
    """What there is a schema of."""

    EXPERIMENT = "experiment"
    CLUSTER = "cluster"


def command(kind: Annotated[Kind, typer.Argument(help="Which files.", show_default=False)], json: Json = False) -> None:
    """JSON Schema of the files that you write, for editors."""
    del json  # it is JSON anyway
    from openrs.cli.output import print_json

    print_json(file_schema(kind))


def file_schema(kind: Kind) -> dict[str, Any]:
    """Schema of a file before it is resolved.

    The model wants every field; a file that extends another leaves out what stays as it is, at any depth, even the
    `type` of a union. So nothing is required, and a part need only fit one of the union's models. Keys and values stay
    strict.
    """
    from openrs.spec.cluster import Cluster
    from openrs.spec.experiment import Experiment

    model = Experiment if kind == Kind.EXPERIMENT else Cluster
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        _relax(part)
    schema["properties"] |= {
        "$schema": {"type": "string", "description": "Where an editor finds this schema."},
        "extends": {"type": "string", "description": f"Name (or file) of the {kind} that this one changes."},
    }
    if kind == Kind.EXPERIMENT:
        _by_name(schema["$defs"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _by_name(definitions: dict[str, Any]) -> None:
    """A benchmark may be a name or a file, or start from one."""
    named = {"type": "string", "description": "Name of a shipped benchmark, or a YAML file with one."}
    entries = definitions["Evaluation"]["properties"]["benchmarks"]
    entries["items"] = {"anyOf": [named, entries["items"]]}
    definitions["Benchmark"]["properties"]["extends"] = {**named, "description": "What this entry changes."}


def _relax(part: Any) -> None:
    if isinstance(part, dict):
        if part.get("type") == "object":
            part.pop("required", None)
        if "discriminator" in part:
            del part["discriminator"]
            part["anyOf"] = part.pop("oneOf")
        for value in part.values():
            _relax(value)
    elif isinstance(part, list):
        for value in part:
            _relax(value)
