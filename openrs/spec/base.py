"""The strict base model and the string types that every spec field is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from openrs.spec.paths import directory_of_code, expand, too_long

RUN_ID = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
"""A run id: it becomes part of scheduler job names, file names and Kubernetes object names."""


class Strict(BaseModel):
    """Unknown keys and values of another type are refused, instances are immutable, docstrings become descriptions.

    A whole number is also a float; nothing else is turned into something else.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL byte")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode (a lone surrogate cannot be written to a file)") from error
    return value


_HIDDEN = "\u2028\u2029" + "\u202a\u202b\u202c\u202d\u202e" + "\u2066\u2067\u2068\u2069"
"""Ends of lines and of paragraphs, and what turns the direction of writing, so that a line reads as another one."""


def _one_line(value: str) -> str:
    _no_nul(value)
    for char in value:
        # Every character that some reader of the value could take for the end of a line, or that hides in a terminal.
        if ord(char) < 32 or 127 <= ord(char) < 160 or char in _HIDDEN:
            raise ValueError(f"must be one line without control characters (found {char!r})")
    return value


def _real_path(value: str) -> str:
    if too_long(value):
        raise ValueError("is longer than a path can be")
    return value


def _program(value: str) -> str:
    if "/" not in value and not value.startswith("~"):
        if not _PROGRAM_NAME.fullmatch(value):
            raise ValueError("must be an absolute path or a name on PATH, without options")
        return value  # found on PATH
    value = expand(value)
    if not value.startswith("/"):
        raise ValueError("must be an absolute path or a name on PATH: a job starts in another directory")
    return _real_path(value)


def _shared_directory(value: str) -> str:
    value = directory_of_code(value)
    if not value.startswith("/"):
        raise ValueError("must be an absolute path, the same on every node")
    return value


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as a string: it wants 1.0e-4.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _secret(value: Any) -> Any:
    if isinstance(value, str) and value in _SECRET_FORMS:
        raise ValueError(f"{_SECRET_FORMS[value]} is missing after the colon")
    return value


_PROGRAM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_EXPONENT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")
_SECRET_FORMS = {"env:": "the variable's name", "file:": "the path", "secret:": "the NAME/KEY"}

Number = Annotated[float, BeforeValidator(_number), AfterValidator(lambda value: value + 0.0)]
"""A float. -0.0 becomes 0.0: equal specs must have equal hashes."""

Text = Annotated[str, AfterValidator(_no_nul)]
"""Free text; may hold several lines."""

Line = Annotated[str, AfterValidator(_one_line)]
"""One line of text: it may stand in a scheduler directive."""

Word = Annotated[Line, Field(min_length=1)]
"""One line that is not empty."""

PathLine = Annotated[Line, AfterValidator(_real_path)]
"""A path that some file system could take."""

Program = Annotated[Word, AfterValidator(_program)]
"""Absolute path (`~` is expanded) or name of a program."""

SharedDirectory = Annotated[Word, AfterValidator(_shared_directory)]
"""Absolute path (`~` is expanded) of a directory in which code may stand."""

_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_SECRET = r"^(env|secret|file):[^\x00-\x1f]+$"
IN_WORDS = {
    _NAME: "small letters, digits, '.', '_' and '-', at most 63, starting with a letter or digit",
    _VARIABLE: "the name of a variable: letters, digits and '_', not starting with a digit",
    _SECRET: "where the secret is found, never its value: env:NAME, file:PATH or secret:NAME/KEY",
}
"""Pattern → what it allows, for people."""

Name = Annotated[str, Field(pattern=_NAME)]
"""A short identifier that is safe as a file name."""

EnvironmentName = Annotated[str, Field(pattern=_VARIABLE)]
"""Name of an environment variable (POSIX)."""

Secret = Annotated[str, BeforeValidator(_secret), Field(pattern=_SECRET)]
"""Where a secret is found, never its value: `env:NAME`, `file:PATH` (mode 0600) or `secret:NAME/KEY` (Kubernetes)."""


def field_names(model: type[BaseModel]) -> list[str]:
    """The names that a user may write for `model`, for "did you mean"."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(str(info.alias or name))
    return names
