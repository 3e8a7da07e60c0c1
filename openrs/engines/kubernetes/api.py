"""The API server, by the official client: plain JSON in and out, and every refusal as one line with a way out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrs.engines.kubernetes.manifest import CONTAINER, KUEUE_QUEUE, QUEUE
from openrs.errors import BadInput, OpenRSError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

    from openrs.spec.cluster import Cluster

Object = dict[str, Any]

TIMEOUT_SECONDS = (10, 60)
"""For the connection, and for an answer."""

_PATHS = {
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "configmaps": "/api/v1/namespaces/{namespace}/configmaps",
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "events": "/api/v1/namespaces/{namespace}/events",
    "persistentvolumeclaims": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "nodes": "/api/v1/nodes",
}
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its ServiceAccount's token."""
_MERGE = "application/merge-patch+json"


class Refused(OpenRSError):
    """The server said no."""

    def __init__(self, text: str, status: int, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        """HTTP status code."""
        self.reason = reason
        """Reason of the `Status` object, e.g. AlreadyExists (Kubernetes API conventions)."""


class Api:
    """One namespace of one server. Every method raises Refused, or OpenRSError where nothing answers."""

    def __init__(self, client: ApiClient, namespace: str, where: str) -> None:
        self.client = client
        self.namespace = namespace
        self._where = where

    @classmethod
    def of(cls, cluster: Cluster) -> Api:
        """The server of a profile. Raises BadInput where there is no usable kubeconfig."""
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException
        from urllib3 import disable_warnings
        from urllib3.exceptions import InsecureRequestWarning
        from yaml import YAMLError

        where = f"cluster {cluster.name}"
        if cluster.kubeconfig is not None and not Path(cluster.kubeconfig).is_file():
            raise BadInput(f"{where}: kubeconfig: the file {cluster.kubeconfig} does not exist")
        # The client reads KUBECONFIG only when it is imported.
        file = cluster.kubeconfig or os.environ.get("KUBECONFIG") or None
        configuration = _configuration()
        try:
            with _complaints() as heard:
                config.load_kube_config(file, cluster.context, client_configuration=configuration, persist_config=False)
                namespace, proxy = _chosen(file, cluster.context)
            if proxy is not None:
                configuration.proxy = proxy
                # As in kubectl, NO_PROXY is not asked then; with none at all, the client's websockets would read it themselves.
                configuration.no_proxy = "-"
            connected = client.ApiClient(configuration)
        except ConfigException as error:
            raise BadInput(f"{where}: {_config_problem(cluster, str(error))}") from None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, YAMLError) as error:
            raise BadInput(f"{where}: the kubeconfig cannot be used ({_line(str(error))})") from None
        if heard:
            raise BadInput(f"{where}: the kubeconfig's program for credentials gave none ({_line(heard[0])})")
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it retries is told when it fails for good
        if not configuration.verify_ssl:  # somebody has decided so, and need not be told at each request
            disable_warnings(InsecureRequestWarning)
        return cls(connected, cluster.namespace or namespace, f"{where} ({configuration.host})")

    @classmethod
    def in_pod(cls) -> Api:
        """The server that this pod belongs to, as the pod's ServiceAccount."""
        from kubernetes import client, config

        configuration = _configuration()
        config.load_incluster_config(client_configuration=configuration)
        return cls(client.ApiClient(configuration), (_ACCOUNT / "namespace").read_text().strip(), "the API server")

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        return self.call("GET", self.path(kind, name))

    def find(self, kind: str, *, labels: str = "", fields: str = "", limit: int | None = None) -> list[Object]:
        """The objects that these selectors choose."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": limit}
        answer = self.call("GET", self.path(kind), {key: value for key, value in query.items() if value})
        return list(answer.get("items", []))

    def create(self, kind: str, content: Object, *, dry: bool = False, strict: bool = True) -> Object:
        """Makes an object; with `dry`, only what the server would have made. `strict`: no field that it does not know."""
        validation = "Strict" if strict else "Warn"
        query = {"fieldValidation": validation, "fieldManager": "openrs"} | ({"dryRun": "All"} if dry else {})
        return self.call("POST", self.path(kind), query, content)

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Lays `change` over an object (JSON merge patch, RFC 7386)."""
        query = {"fieldValidation": "Strict", "fieldManager": "openrs"}
        return self.call("PATCH", self.path(kind, name), query, change, content_type=_MERGE)

    def delete(
        self,
        kind: str,
        name: str,
        *,
        propagation: str = "Background",
        grace: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Deletes an object and what it owns, with `uid` only that very one; one that is gone already is fine."""
        options: Object = {"propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.call("DELETE", self.path(kind, name), body=options)
        except Refused as error:
            if error.status != 404:
                raise

    def log(self, pod: str, **query: Any) -> str:
        """What openrs's container of a pod printed, as text. `query`: parameters of the log subresource."""
        content = self._send("GET", f"{self.path('pods', pod)}/log", {"container": CONTAINER, **query})
        return content.decode(errors="replace")

    def version(self) -> tuple[int, int]:
        """Major and minor version of the server."""
        answer = self.call("GET", "/version")
        try:
            return int(answer["major"]), int("".join(char for char in answer["minor"] if char.isdecimal()))
        except (KeyError, TypeError, ValueError):
            raise OpenRSError(f"{self._where}: what answers there is no Kubernetes API server") from None

    def path(self, kind: str, name: str = "") -> str:
        """Path of a kind of objects of the namespace, or of one of them."""
        path = _PATHS[kind].format(namespace=self.namespace)
        return f"{path}/{name}" if name else path

    def call(
        self,
        method: str,
        path: str,
        query: Object | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request; the answer's JSON."""
        try:
            content = json.loads(self._send(method, path, query, body, content_type))
        except ValueError:  # a proxy's page, say
            content = None
        if not isinstance(content, dict):
            raise OpenRSError(f"{self._where}: what answers there is no Kubernetes API server")
        return content

    def _send(
        self,
        method: str,
        path: str,
        query: Object | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response = self.client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT_SECONDS,
            )
            content: bytes = response.data  # read now: the server may die before all of it has come
            return content
        except ApiException as error:
            raise self._refusal(error, method, path) from None
        except (HTTPError, OSError) as error:  # the latter: a certificate that is none
            raise OpenRSError(f"{self._where}: the API server does not answer ({_cause(error)})") from None

    def _refusal(self, error: Any, method: str, path: str) -> Refused:
        try:
            status = json.loads(error.body)
            message, reason = str(status.get("message", "")), str(status.get("reason", ""))
        except (TypeError, ValueError):
            message, reason = str(error.reason), ""
        text = f"{self._where}: {_line(message) or error.reason}"
        if error.status == 401:
            text += "; the kubeconfig's credentials are not accepted, log in anew"
        elif error.status == 403 and " cannot " in message:
            text += f"; the Role openrs-user of deploy/base grants it, if {self.namespace} is the namespace that was meant and is there"
        elif error.status == 404 and reason == "NotFound" and f'namespaces "{self.namespace}"' in message:
            text += "; create it as deploy/README.md says, or set namespace in the profile"
        return Refused(text, error.status, reason)


def release(api: Api, names: Iterable[str]) -> None:
    """Lets Jobs begin that waited; under Kueue they join its queue. One that is gone needs nothing."""
    for name in names:
        try:
            job = api.get("jobs", name)
        except Refused as error:
            if error.status == 404:
                continue
            raise
        queue = job["metadata"].get("annotations", {}).get(QUEUE)
        if queue is not None:
            api.patch("jobs", name, {"metadata": {"labels": {KUEUE_QUEUE: queue}}})
        elif job["spec"].get("suspend"):
            api.patch("jobs", name, {"spec": {"suspend": False}})


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the client logs meanwhile instead of failing: that a program which should give a token does not work."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    root, listener = logging.getLogger(), Listener(logging.ERROR)
    root.addHandler(listener)
    try:
        yield heard
    finally:
        root.removeHandler(listener)


def _configuration() -> Configuration:
    """The client's settings, but for the server and the credentials."""
    from kubernetes import client
    from urllib3.util import Retry

    configuration = client.Configuration()
    # A server that asks to wait may ask for minutes, through which nothing would be said.
    configuration.retries = Retry(2, respect_retry_after_header=False, backoff_factor=1)
    # The client reads it, and then forgets it (kubernetes 34.1.0, client/configuration.py).
    configuration.no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return configuration


def _chosen(file: str | None, name: str | None) -> tuple[str, str | None]:
    """Namespace of a kubeconfig's context, the current one without a name, and the proxy of its cluster.

    Not by the client's list of contexts, which cannot be had where none is the current one.
    """
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

    content = KubeConfigMerger(file or KUBE_CONFIG_DEFAULT_LOCATION).config
    context = content["contexts"].get_with_name(name or content["current-context"])["context"]
    cluster = content["clusters"].get_with_name(context["cluster"])["cluster"]
    return context.safe_get("namespace") or "default", cluster.safe_get("proxy-url") or None


def _config_problem(cluster: Cluster, text: str) -> str:
    if "Expected object with name" in text and cluster.context is not None:
        return f"context = {cluster.context!r} is not in the kubeconfig; `kubectl config get-contexts` lists them"
    if "No configuration found" in text:
        return "no kubeconfig: set KUBECONFIG, or kubeconfig in the profile, to the file that your cluster's administrator gave you"
    return f"the kubeconfig cannot be used ({_line(text)})"


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason)
    return _line(text.partition("object at 0x")[2].partition(">: ")[2] or text)


def _line(text: str) -> str:
    return " ".join(text.split())[:1000]
