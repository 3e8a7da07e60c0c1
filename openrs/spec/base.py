"""The strict base model and the string types that every spec field is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RUN_ID = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
"""A run id: it becomes part of scheduler job names, file names and Kubernetes object names."""


class Strict(BaseModel):
    """Unknown keys are refused, instances are immutable, and attribute docstrings become schema descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL byte")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode (a lone surrogate cannot be written to a file)") from error
    return value


def _one_line(value: str) -> str:
    _no_nul(value)
    for char in value:
        # Every character that some reader of the value could take for the end of a line, or that hides in a terminal.
        if ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029":
            raise ValueError(f"must be one line without control characters (found {char!r})")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
"""Free text; may hold several lines."""

Line = Annotated[str, AfterValidator(_one_line)]
"""One line of text: it may stand in a scheduler directive."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A short identifier that is safe as a file name."""

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable (POSIX)."""

Secret = Annotated[str, Field(pattern=r"^(env|secret|file):[^\x00-\x1f]+$")]
"""Where a secret is found, never its value: `env:NAME`, `file:PATH` (mode 0600) or `secret:NAME/KEY` (Kubernetes)."""


def field_names(model: type[BaseModel]) -> list[str]:
    """The names that a user may write for `model`, for "did you mean"."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(str(info.alias or name))
    return names


JsonDict = dict[str, Any]
