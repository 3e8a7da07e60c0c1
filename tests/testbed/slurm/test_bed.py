"""The bed itself: is it the cluster that the other tests take it for?"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.testbed.slurm import BedError, CommandFailed, SlurmBed
from tests.testbed.slurm.commands import parse_job
from tests.testbed.slurm.daemons import reserve_ports, teardown

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[3]
# Says which signal it got, on a line of its own that is there when the process is gone.
LISTEN = """
import signal, sys, time
def told(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, told)
print("listening", flush=True)
time.sleep(120)
"""


@pytest.fixture
def bed(slurm_bed: SlurmBed) -> Iterator[SlurmBed]:
    """The session's bed, left as it was found."""
    yield slurm_bed
    slurm_bed.set_preempt_user_signal(True)
    slurm_bed.reset()


def wait_text(path: Path, text: str, timeout: float = 30) -> str:
    """What the file holds, once that includes `text`."""
    deadline = time.monotonic() + timeout
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"{text!r} not in {path}"
        time.sleep(0.1)
    return path.read_text()


def alive(text: str) -> list[str]:
    """Command lines of running processes (of no zombie) with `text` in their arguments or environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            line = (process / "cmdline").read_bytes()
            if text.encode() in line + b"\0" + (process / "environ").read_bytes():
                found.append(line.replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is a kernel thread
            continue
    return found


def test_gpus_are_bound(bed: SlurmBed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    show = "hostname; echo $CUDA_VISIBLE_DEVICES; srun bash -c 'echo $SLURM_STEP_GPUS'; getent hosts node03"
    job = bed.submit(show, "--gpus-per-node=a40:4", "-w", "node02", "-o", str(out))
    bed.wait_state(job, "COMPLETED")
    lines = out.read_text().splitlines()
    assert lines[:3] == ["node02", "0,1,2,3", "0,1,2,3"]
    assert lines[3].split() == ["127.0.0.1", "node03"]
    (record,) = bed.records(job)
    assert (record["State"], record["NodeList"]) == ("COMPLETED", "node02")
    assert "gres/gpu:a40=4" in record["AllocTRES"]
    assert [row["JobID"] for row in bed.records(job, steps=True)] == [job, f"{job}.batch", f"{job}.0"]


def test_two_jobs_share_a_node_without_sharing_gpus(bed: SlurmBed, tmp_path: Path) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    show = "echo $CUDA_VISIBLE_DEVICES; sleep 2"
    jobs = [bed.submit(show, "--gpus-per-node=2", "-w", "node01", "-o", str(out)) for out in halves]
    for job in jobs:
        bed.wait_state(job, "COMPLETED")
    assert sorted(out.read_text().strip() for out in halves) == ["0,1", "2,3"]


def test_array_and_stored_script(bed: SlurmBed, tmp_path: Path) -> None:
    script = "#!/bin/bash\necho element $SLURM_ARRAY_TASK_ID\n"
    job = bed.submit(script, "--array=0-2", "--comment=one two", "-o", str(tmp_path / "%a"))
    bed.wait_state(job, "COMPLETED")
    assert [(tmp_path / str(i)).read_text() for i in range(3)] == [f"element {i}\n" for i in range(3)]
    assert sorted(row["JobID"] for row in bed.records(job)) == [f"{job}_{i}" for i in range(3)]
    assert {row["Comment"] for row in bed.records(job)} == {"one two"}
    assert bed.job(job)["Comment"] == "one two"
    assert bed.batch_script(job).strip() == script.strip()


@pytest.mark.parametrize("gres", ["gpu:h100:1", "gpu:a40:5"])
def test_what_no_node_has_is_refused(bed: SlurmBed, gres: str) -> None:
    with pytest.raises(CommandFailed, match="Requested node configuration is not available"):
        bed.submit("true", f"--gres={gres}")


@pytest.mark.parametrize("notice", [pytest.param(False, marks=pytest.mark.slow), True])
def test_node_crash_requeues_the_job(bed: SlurmBed, tmp_path: Path, notice: bool) -> None:
    out = tmp_path / "out"
    once = f'echo run ${{SLURM_RESTART_COUNT:-0}} >> {out}; test -n "$SLURM_RESTART_COUNT" || srun sleep 300'
    job = bed.submit(once, "--gpus-per-node=1", "-w", "node03", "-o", "/dev/null")
    wait_text(out, "run 0")
    bed.kill_node("node03", notice)
    assert not [line for line in alive(str(bed.directory)) if "sleep 300" in line]
    bed.wait_state(job, "PENDING", timeout=60)
    assert bed.node_states()["node03"].startswith("down")
    bed.start_node("node03")
    bed.wait_state(job, "COMPLETED")
    assert out.read_text() == "run 0\nrun 1\n"
    assert [row["State"] for row in bed.records(job)] == ["NODE_FAIL", "COMPLETED"]


@pytest.mark.parametrize(("user_signal", "received"), [(True, "SIGUSR2"), (False, "SIGTERM")])
def test_preemption_reaches_the_step(bed: SlurmBed, tmp_path: Path, user_signal: bool, received: str) -> None:
    bed.set_preempt_user_signal(user_signal)
    (tmp_path / "listen.py").write_text(LISTEN)
    out = tmp_path / "out"
    script = f"srun {sys.executable} {tmp_path}/listen.py >> {out}"
    options = ("--gpus-per-node=4", "-w", "node01", "-o", "/dev/null")
    low = bed.submit(script, "-p", "scavenge", "--signal=USR2@60", *options)
    wait_text(out, "listening")
    high = bed.submit("sleep 1", "-p", "main", *options)
    wait_text(out, "got")
    assert out.read_text().splitlines() == ["listening", f"got {received}"]
    bed.wait_state(high, "COMPLETED")
    bed.run("scancel", low)


@pytest.mark.slow
def test_running_job_outlives_the_controller(bed: SlurmBed, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = bed.submit(f"until [ -e {gate} ]; do sleep 0.2; done", "-o", "/dev/null")
    started = bed.wait_state(job, "RUNNING")["StartTime"]
    bed.stop_controller()
    with pytest.raises(CommandFailed, match="Unable to contact slurm controller"):
        bed.run("squeue")
    bed.start_controller()
    assert (bed.job(job)["JobState"], bed.job(job)["StartTime"]) == ("RUNNING", started)
    gate.touch()
    bed.wait_state(job, "COMPLETED")
    assert [row["State"] for row in bed.records(job)] == ["COMPLETED"]


def test_without_accounting(slurm_bed_noacct: SlurmBed) -> None:
    job = slurm_bed_noacct.submit("true", "-o", "/dev/null")
    assert slurm_bed_noacct.wait_state(job, "COMPLETED")["Restarts"] == "0"
    with pytest.raises(CommandFailed, match="accounting storage is disabled"):
        slurm_bed_noacct.rows(job)
    with pytest.raises(BedError, match="no accounting"):
        slurm_bed_noacct.records(job)


def test_down_leaves_nothing() -> None:
    directory = Path("/tmp") / f"bed-{os.getpid()}"
    mounts = Path("/proc/mounts").read_text()
    with SlurmBed(directory, nodes=1, accounting=False) as bed:
        job = bed.submit("sleep 300", "-o", "/dev/null")
        bed.wait_state(job, "RUNNING")
        assert len(alive(str(directory))) >= 4
    assert alive(str(directory)) == []
    assert not directory.exists()
    assert Path("/proc/mounts").read_text() == mounts
    bed.down()  # again, to no harm


def test_interrupted_process_leaves_nothing() -> None:
    directory = Path("/tmp") / f"bed-{os.getpid()}-k"
    program = (
        "import sys, time, pathlib; from tests.testbed.slurm import SlurmBed;"
        "SlurmBed(pathlib.Path(sys.argv[1]), nodes=1, accounting=False).up(); print('up', flush=True);"
        "time.sleep(60)"
    )
    for how in (signal.SIGKILL, signal.SIGINT):
        holder = subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"up\n"
            holder.send_signal(how)
        deadline = time.monotonic() + 15
        while (directory.exists() or alive(str(directory))) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not directory.exists()
        assert alive(str(directory)) == []


def test_by_hand() -> None:
    directory = Path("/tmp") / f"bed-{os.getpid()}-h"
    command = [sys.executable, "-m", "tests.testbed.slurm"]
    options = ["--nodes", "1", "--no-accounting", "--no-user-signal"]
    up = subprocess.run([*command, "up", str(directory), *options], cwd=ROOT, capture_output=True, text=True)
    assert up.stdout == f"export SLURM_CONF={directory}/etc/slurm.conf\n"
    down = subprocess.run([*command, "down", str(directory)], cwd=ROOT, capture_output=True, text=True)
    assert (down.returncode, down.stderr) == (0, "")
    assert alive(str(directory)) == []
    assert not directory.exists()


def test_a_directory_that_is_no_bed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BedError, match="not a bed"):
        teardown(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_directory_too_long_for_sockets() -> None:
    with pytest.raises(BedError, match="too long for unix sockets"):
        SlurmBed(Path("/tmp") / ("x" * 70))


def test_port_blocks_do_not_overlap() -> None:
    blocks = [reserve_ports(6) for _ in range(20)]
    firsts = sorted(first for first, _ in blocks)
    for _, lock in blocks:
        lock.close()
    assert all(later - earlier >= 6 for earlier, later in pairwise(firsts))


def test_parse_job() -> None:
    line = 'JobId=7 JobName=a b ReqB:S:C:T=0:0:*:* Comment={"x": 1} Socks/Node=* Reason=None '
    assert parse_job(line) == {
        "JobId": "7",
        "JobName": "a b",
        "ReqB:S:C:T": "0:0:*:*",
        "Comment": '{"x": 1}',
        "Socks/Node": "*",
        "Reason": "None",
    }
