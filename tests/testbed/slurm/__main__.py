"""`python -m tests.testbed.slurm up DIR`, `… down DIR`: a cluster to try things on by hand."""

import argparse
import sys
from pathlib import Path

from tests.testbed.slurm import BedError, SlurmBed
from tests.testbed.slurm.daemons import teardown


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.slurm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster in DIR (new or empty) and leave it running")
    up.add_argument("--nodes", type=int, default=3)
    up.add_argument("--gpus", type=int, default=4, help="per node")
    up.add_argument("--no-accounting", action="store_true")
    up.add_argument("--no-user-signal", action="store_true", help="preemption sends TERM, as by default")
    up.add_argument("--cgroup", action="store_true", help="enforce memory and devices (cgroup v1)")
    down = commands.add_parser("down", help="end the cluster in DIR and remove DIR")
    guard = commands.add_parser("guard", help="`down`, once stdin ends (a test process has it open)")
    for command in (up, down, guard):
        command.add_argument("directory", type=Path, metavar="DIR")
    args = parser.parse_args()
    try:
        if args.command == "up":
            bed = SlurmBed(
                args.directory,
                nodes=args.nodes,
                gpus=args.gpus,
                accounting=not args.no_accounting,
                preempt_user_signal=not args.no_user_signal,
                cgroup=args.cgroup,
            )
            bed.up(guard=False)
            print(f"export SLURM_CONF={bed.env['SLURM_CONF']}")
        else:
            if args.command == "guard":
                sys.stdin.buffer.read()
            teardown(args.directory.absolute())
    except BedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
