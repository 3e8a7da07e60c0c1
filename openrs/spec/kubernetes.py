"""The string types and small models of a Kubernetes profile, as the API server checks them.

Kubernetes, "Object Names and IDs" and "Labels and Selectors".
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from openrs.spec.base import PathLine, Strict, Word

RESERVED = ("/etc/openrs", "/tmp", "/dev", "/proc", "/sys", "/var/run/secrets/kubernetes.io")
"""Where openrs or the container runtime mounts something of its own."""

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""What names of objects are like, but for their length."""
_IMAGE = re.compile(
    r"(?P<name>([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*(:[0-9]+)?/)?"
    r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*)"
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""The grammar of the distribution project, `reference`."""


def _subdomain(value: str) -> str:
    if len(value) > 253 or not SUBDOMAIN.fullmatch(value):
        raise ValueError("must be small letters, digits, '-' and '.', as Kubernetes names its objects")
    return value


def _dns_label(value: str) -> str:
    if len(value) > 63 or not SUBDOMAIN.fullmatch(value) or "." in value:
        raise ValueError("must be at most 63 small letters, digits and '-', as Kubernetes names its namespaces")
    return value


def _label_key(value: str) -> str:
    prefix, slash, name = value.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and (len(prefix) > 253 or not SUBDOMAIN.fullmatch(prefix))):
        raise ValueError("must be a label key such as nvidia.com/gpu.product")
    return value


def _label_value(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise ValueError(
            "must be a label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"
        )
    return value


def _own_key(value: str) -> str:
    own = ("openrs.dev/", "app.kubernetes.io/", "kueue.x-k8s.io/", "batch.kubernetes.io/")
    if value.startswith(own) or value in ("job-name", "controller-uid"):
        raise ValueError("this label is set by openrs or by Kubernetes itself")
    return value


def is_image(value: str) -> bool:
    """Whether it is a reference of an image."""
    match = _IMAGE.fullmatch(value) if len(value) < 500 else None
    return match is not None and len(match["name"]) <= 255


def _image(value: str) -> str:
    if not is_image(value):
        raise ValueError("must be an image such as registry.example/openrs/train@sha256:<64 hex digits>")
    return value


def _mount_path(value: str) -> str:
    if not value.startswith("/") or value == "/" or ":" in value or "//" in value or value.endswith("/"):
        raise ValueError("must be an absolute path below /, without ':' and without a slash at its end")
    if {".", ".."} & set(value.split("/")):
        raise ValueError("must be an absolute path without '.' and '..'")
    for reserved in RESERVED:
        if value == reserved or value.startswith(f"{reserved}/") or reserved.startswith(f"{value}/"):
            raise ValueError(f"is in the way of {reserved}, which is mounted in every pod; choose another")
    return value


ObjectName = Annotated[Word, AfterValidator(_subdomain)]
"""Name of a Kubernetes object (DNS subdomain, RFC 1123)."""
DnsLabel = Annotated[Word, AfterValidator(_dns_label)]
"""Name of a namespace, or of what becomes part of a host name (DNS label, RFC 1123)."""
LabelKey = Annotated[Word, AfterValidator(_label_key)]
"""Key of a label or of an extended resource."""
LabelValue = Annotated[str, AfterValidator(_label_value)]
"""Value of a label."""
OwnLabelKey = Annotated[LabelKey, AfterValidator(_own_key)]
"""Key of a label that is free for a user."""
Image = Annotated[Word, AfterValidator(_image)]
"""Reference of a container image."""
MountPath = Annotated[PathLine, AfterValidator(_mount_path)]
"""Where a volume stands in the containers."""


class Volume(Strict):
    """A PersistentVolumeClaim and where the pods see it."""

    claim: ObjectName
    """Name of the claim, in the namespace of the Jobs."""
    path: MountPath
    """Where it is mounted, in every pod."""
    read_only: bool = False
    """Mount it read-only."""


class Toleration(Strict):
    """A taint that the pods tolerate (Kubernetes, "Taints and Tolerations")."""

    key: LabelKey | None = None
    """Key of the taint; every one without it."""
    operator: Literal["Equal", "Exists"] = "Exists"
    """`Exists`: any value; `Equal`: that value."""
    value: LabelValue | None = None
    """Value of the taint, for `Equal`."""
    effect: Annotated[Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None, Field()] = None
    """Effect of the taint; every one without it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: with operator = 'Exists' there is none; leave it out, or use 'Equal'")
        if self.operator == "Equal" and (self.value is None or self.key is None):
            raise ValueError("operator = 'Equal' needs a key and a value")
        return self
