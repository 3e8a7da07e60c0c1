"""A bed's certificates, and the kubeconfig files that hold them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.testbed.k8s.machine import Word, run


class Keys:
    """The authority in `directory`/pki and the kubeconfigs in `directory`/etc."""

    def __init__(self, directory: Path) -> None:
        self.pki, self.etc = directory / "pki", directory / "etc"

    def create(self, host: str, url: str) -> None:
        """The control plane's; `host` is where nodes and pods find the API server, `url` is for this machine."""
        (self.pki / "openssl.cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
        self.certificate(
            "ca", "/CN=k8s-bed", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"
        )
        self.certificate("kube-apiserver", "/CN=kube-apiserver", f"subjectAltName=IP:127.0.0.1,IP:{host},DNS:localhost")
        run("openssl", "genpkey", "-algorithm", "RSA", "-out", self.pki / "accounts.key")
        users = {
            "admin": "/O=system:masters/CN=admin",
            "kube-controller-manager": "/CN=system:kube-controller-manager",
            "kube-scheduler": "/CN=system:kube-scheduler",
        }
        for name, subject in users.items():
            self.certificate(name, subject)
            self.kubeconfig(name, url)

    def certificate(self, name: str, subject: str, *extensions: str) -> None:
        """NAME.key and NAME.crt, signed by the authority (which signs its own)."""
        signer: list[Word] = [] if name == "ca" else ["-CA", self.pki / "ca.crt", "-CAkey", self.pki / "ca.key"]
        added = [word for extension in extensions for word in ("-addext", extension)]
        request: list[Word] = ["openssl", "req", "-config", self.pki / "openssl.cnf", "-x509", "-days", 3650, "-nodes"]
        key: list[Word] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", self.pki / f"{name}.key"]
        run(*request, *key, "-subj", subject, *signer, *added, "-out", self.pki / f"{name}.crt")

    def kubeconfig(self, user: str, url: str) -> None:
        """The file that makes its reader `user`."""

        def encoded(file: str) -> str:
            return base64.b64encode((self.pki / file).read_bytes()).decode()

        cluster = {"server": url, "certificate-authority-data": encoded("ca.crt")}
        identity = {"client-certificate-data": encoded(f"{user}.crt"), "client-key-data": encoded(f"{user}.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": cluster}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
        }
        file = self.etc / f"{user}.kubeconfig"
        file.touch(0o600)
        file.write_text(json.dumps(config))
