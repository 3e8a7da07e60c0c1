"""What the server has of a manifest, and what it would make of it now: by a creation that it only pretends."""

from __future__ import annotations

import copy
from typing import Any

from openrs.engines.kubernetes.api import Api, Refused
from openrs.engines.kubernetes.manifest import SENDING

Object = dict[str, Any]

_SERVERS_OWN = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink", "finalizers")
_CONTROLLERS_LABELS = (
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "job-name",
    "batch.kubernetes.io/job-name",
)
_LIVE = ("ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds")


def on_server(api: Api, kind: str, item: Object) -> tuple[Object, Object]:
    """(The object as it is, the one that `item` would become), both with the server's defaults; empty if there is none."""
    name = item["metadata"]["name"]
    try:
        has = api.get(kind, name)
    except Refused as error:
        if error.status != 404:
            raise
        has = {}
    # Under another name: one that exists cannot be created, and most of a Job cannot be changed.
    pretended = item | {"metadata": item["metadata"] | {"name": f"{name[:50].rstrip('-')}-diff"}}
    would = api.create(kind, pretended, dry=True)
    would["metadata"]["name"] = name
    return _essence(has), _essence(would)


def _essence(item: Object) -> Object:
    """Without what the server and its controllers add, and without what changes as a Job goes on."""
    item = copy.deepcopy(item)
    item.pop("status", None)
    metadata = item.get("metadata", {})
    for key in (*_SERVERS_OWN, *_LIVE):
        metadata.pop(key, None)
    for key in ("batch.kubernetes.io/job-tracking", SENDING):
        metadata.get("annotations", {}).pop(key, None)
    spec = item.get("spec", {})
    for key in ("selector", "manualSelector", "suspend"):
        spec.pop(key, None)
    template = spec.get("template", {}).get("metadata", {})
    for holder in (metadata, template):
        for key in _CONTROLLERS_LABELS:
            holder.get("labels", {}).pop(key, None)
    template.pop("creationTimestamp", None)
    return item
