"""The control plane's daemons and their flags."""

from __future__ import annotations

from tests.testbed.k8s.machine import Word
from tests.testbed.k8s.node import Site

DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "dns")


def arguments(site: Site, name: str) -> list[Word]:
    """The command line of a daemon."""
    if name == "dns":
        return [site.bin / name, site.directory / "etc" / "admin.kubeconfig", f"{site.host}:53"]
    flags = {
        "etcd": _etcd,
        "kube-apiserver": _apiserver,
        "kube-controller-manager": _controllers,
        "kube-scheduler": _scheduler,
    }
    return [site.bin / name, *(f"--{flag}={value}" for flag, value in flags[name](site).items())]


def _client(site: Site, name: str) -> dict[str, Word]:
    return {
        "kubeconfig": site.directory / "etc" / f"{name}.kubeconfig",
        "leader-elect": "false",
        "secure-port": 0,
        # The default of 20 a second makes the start 4 s longer.
        "kube-api-qps": 500,
        "kube-api-burst": 1000,
    }


def _etcd(site: Site) -> dict[str, Word]:
    clients, peers = f"http://{site.host}:2379", f"http://{site.host}:2380"
    return {
        "data-dir": site.directory / "etcd",
        "unsafe-no-fsync": "true",
        "logger": "zap",
        "log-level": "warn",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
    }


def _apiserver(site: Site) -> dict[str, Word]:
    pki = site.directory / "pki"
    return {
        "etcd-servers": f"http://{site.host}:2379",
        "bind-address": "0.0.0.0",
        "secure-port": site.port,
        "advertise-address": site.host,
        "endpoint-reconciler-type": "none",
        "service-cluster-ip-range": f"{site.net}.240.0/20",
        "tls-cert-file": pki / "kube-apiserver.crt",
        "tls-private-key-file": pki / "kube-apiserver.key",
        "client-ca-file": pki / "ca.crt",
        "kubelet-preferred-address-types": "InternalIP",
        "kubelet-client-certificate": pki / "admin.crt",
        "kubelet-client-key": pki / "admin.key",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": pki / "accounts.key",
        "service-account-signing-key-file": pki / "accounts.key",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        # A pod leaves a lost node after 5 s, not 300.
        "default-not-ready-toleration-seconds": 5,
        "default-unreachable-toleration-seconds": 5,
    }


def _controllers(site: Site) -> dict[str, Word]:
    return {
        **_client(site, "kube-controller-manager"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": site.directory / "pki" / "accounts.key",
        "root-ca-file": site.directory / "pki" / "ca.crt",
        # A silent node is lost after 8 s, not 50, and its pods need not queue to be deleted.
        "node-monitor-period": "1s",
        "node-monitor-grace-period": "8s",
        "node-eviction-rate": 10,
        # A claim made just after its volume may wait for the next round: 15 s.
        "pvclaimbinder-sync-period": "1s",
    }


def _scheduler(site: Site) -> dict[str, Word]:
    return _client(site, "kube-scheduler")
