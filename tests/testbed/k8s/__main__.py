"""`python -m tests.testbed.k8s up DIR`, `… down DIR`: a Kubernetes to try things on by hand."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.testbed.k8s.build import build
from tests.testbed.k8s.machine import BedError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.k8s", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile Kubernetes (minutes, once a machine), and print where it is")
    up = commands.add_parser("up", help="start a cluster in DIR (new or empty), or what does not run of the one there")
    up.add_argument("--nodes", type=int, default=2)
    up.add_argument("--gpus", type=int, default=4, help="per node")
    up.add_argument("--cpus", type=int, default=64, help="per node; it need not have them")
    up.add_argument("--memory", type=int, default=256, help="per node, in GiB; it need not have it")
    up.add_argument("--job-backoff", type=int, default=1, help="seconds before a Job's pod is replaced")
    down = commands.add_parser("down", help="end the cluster in DIR and remove DIR")
    guard = commands.add_parser("guard", help="`down`, once stdin ends (a test process has it open)")
    status = commands.add_parser("status", help="which daemons and nodes run, with their pids")
    kubeconfig = commands.add_parser("kubeconfig", help="print its path")
    stop = commands.add_parser("stop", help="end a daemon, or cut a node's power")
    start = commands.add_parser("start", help="start it again")
    load = commands.add_parser("load", help="give an image archive to every node; prints the name with the digest")
    pack = commands.add_parser("pack", help="make an image archive of busybox and the named paths of this machine")
    for command in (up, down, guard, status, kubeconfig, stop, start, load):
        command.add_argument("directory", type=Path, metavar="DIR")
    for command in (stop, start):
        command.add_argument("name", metavar="NAME", help="kube-apiserver, node-a, node-a.kubelet, …")
    for command in (load, pack):
        command.add_argument("tar", type=Path, metavar="TAR")
        command.add_argument("image", metavar="NAME:TAG", help="e.g. localhost/job:1")
    pack.add_argument("paths", nargs="*", metavar="PATH")
    return parser


def _do(args: argparse.Namespace) -> None:
    if args.command == "build":
        # Before there is a virtual environment, nothing else can be imported.
        print(build())
        return
    from tests.testbed.k8s.bed import K8sBed
    from tests.testbed.k8s.image import pack

    if args.command == "pack":
        pack(args.tar.absolute(), args.image, args.paths)
    elif args.command == "up":
        sizes = {name: getattr(args, name) for name in ("nodes", "gpus", "cpus", "memory", "job_backoff")}
        bed = K8sBed(args.directory, **sizes).up(guard=False)
        print(f"export KUBECONFIG={bed.kubeconfig}")
    elif args.command in ("down", "guard"):
        if args.command == "guard":
            sys.stdin.buffer.read()
        K8sBed(args.directory).down()
    else:
        bed = K8sBed.at(args.directory)
        if args.command == "kubeconfig":
            print(bed.kubeconfig)
        elif args.command == "status":
            print(json.dumps(bed.status(), indent=1))
        elif args.command == "load":
            print(bed.load(args.tar, args.image))
        else:
            getattr(bed, args.command)(args.name)


def main() -> int:
    """Run one of the commands."""
    try:
        _do(_parser().parse_args())
    except BedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
