"""Fixtures: one Kubernetes per pytest process (per xdist worker) that asks for it.

They last for the session, so tests work in namespaces of their own and leave the bed as they found it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.k8s.bed import PREFIX, K8sBed, sweep
from tests.testbed.k8s.build import build, building, built
from tests.testbed.k8s.client import ForeignCluster, K8sCluster
from tests.testbed.k8s.machine import BedError, missing

REQUIRE = "OPENRS_REQUIRE_TESTBED"
EXISTING = "OPENRS_TEST_KUBECONFIG"
IMAGE = "OPENRS_TEST_IMAGE"
PYTHON = "OPENRS_TEST_PYTHON"
_FIXTURES = {"k8s_bed", "k8s_cluster"}


def pytest_configure(config: pytest.Config) -> None:
    """The marker for `-m "not k8s"`, and silence about what the Kubernetes client does inside."""
    config.addinivalue_line("markers", "k8s: needs the Kubernetes test bed (daemons, root)")
    config.addinivalue_line("filterwarnings", r"ignore:HTTPResponse\.getheaders:DeprecationWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """While Kubernetes is still to be compiled, the wait for it is not part of a test's time."""
    if built():
        return
    for item in items:
        if _FIXTURES.intersection(getattr(item, "fixturenames", ())):
            own = item.get_closest_marker("timeout")
            args, words = (own.args, own.kwargs) if own is not None else ((), {})
            item.add_marker(pytest.mark.timeout(*args, **{**words, "func_only": True}), append=False)


def _lack() -> str | None:
    if (lack := missing()) is not None:
        return lack
    # Minutes of compilation are not what a plain `pytest` should begin; to wait for what another began is right.
    if built() or building() or os.environ.get(REQUIRE) == "1":
        return None
    return "its program; `make testbed-k8s` compiles it"


@pytest.fixture(scope="session")
def k8s_bed() -> Iterator[K8sBed]:
    """A Kubernetes of two nodes of four A40s, whose daemons and nodes can be stopped."""
    if os.environ.get(EXISTING):
        pytest.skip(
            f"stops daemons and nodes of a Kubernetes bed, which is not done to the existing cluster of {EXISTING}"
        )
    if (lack := _lack()) is not None:
        reason = f"no Kubernetes testbed here; missing: {lack}"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{reason} ({REQUIRE}=1)", pytrace=False)
        pytest.skip(reason)
    try:
        build()
    except BedError as error:
        pytest.fail(str(error), pytrace=False)
    sweep(Path(tempfile.gettempdir()))
    # Not tmp_path_factory: its paths are long, and it keeps old directories.
    with K8sBed(Path(tempfile.mkdtemp(prefix=PREFIX)), nodes=2, job_backoff=1) as bed:
        yield bed


@pytest.fixture(scope="session")
def k8s_cluster(request: pytest.FixtureRequest) -> Iterator[K8sCluster]:
    """For tests that only use a cluster: that of OPENRS_TEST_KUBECONFIG, or else the bed."""
    existing = os.environ.get(EXISTING)
    if not existing:
        bed: K8sBed = request.getfixturevalue("k8s_bed")
        yield bed
        return
    image = os.environ.get(IMAGE)
    if not image:
        pytest.fail(
            f"{EXISTING} needs {IMAGE} beside it: an image of openrs that the cluster's nodes can pull", pytrace=False
        )
    cluster = ForeignCluster(Path(existing), image, os.environ.get(PYTHON, "python"))
    yield cluster
    cluster.close()
