"""A job array of 1,000 evaluation cells: sent by openrs beside a raw `sbatch` of the same script, then asked for.

On the test bed's Slurm with the partition down, so that nothing starts. `engine` is SlurmEngine.submit alone (sbatch, and
the pickle that submitit wants for each element); `openrs submit` is the whole command, from the start of Python over
rendering, stage files and the copy of the code to two sbatch calls, one for the array and one for the training job.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.common import (
    alternate,
    bytecode,
    machine,
    note,
    parser,
    ratio,
    run_openrs,
    sets,
    show,
    spread,
    verdict,
)
from openrs import launch
from openrs import plan as planning
from openrs.engines import Artifacts, Job, JobState, engine_for
from openrs.engines.slurm_query import inspect
from openrs.runs.files import write_atomic
from openrs.spec.load import load_cluster, load_experiment
from tests.testbed.slurm import SlurmBed

AIM = 1.0
"""Seconds that the engine may take over a raw sbatch."""


class Sender:
    """Sends the array in three ways; every call cancels what it has sent, outside of the time it reports."""

    def __init__(self, bed: SlurmBed, home: Path, cells: int) -> None:
        self.bed, self.home, self.cells, self.count = bed, home, cells, 0
        self.overrides = [f"evaluation.benchmarks.0.seeds={list(range(cells))}", "evaluation.at_steps=[]"]
        self.cluster = load_cluster("slurm").model_copy(update={"array_limit": cells})
        self.experiment = load_experiment("smoke", self.overrides)
        (home / "openrs.toml").write_text(f'[clusters.bed]\nextends = "slurm"\narray_limit = {cells}\n')

    def _artifacts(self) -> Artifacts:
        """The array alone, on disk as `submit` would have left it."""
        self.count += 1
        wanted = planning.cells(self.experiment, [None])
        stages = planning.cell_stages("base", wanted, [], self.experiment, self.cluster)
        plan = planning.assemble(self.experiment, self.cluster, stages)
        place = launch.place_of(self.cluster, self.home / "runs", f"array-{self.count}")
        artifacts = engine_for(self.cluster).render(self.experiment, plan, place)
        for name, content in artifacts.files.items():
            path = place.directory / "submission" / "1" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        return artifacts

    def raw(self) -> float:
        """`sbatch` of the script that openrs renders."""
        place = self._artifacts().place
        script = place.directory / "submission" / "1" / "base" / "job.sbatch"
        start = time.perf_counter()
        handle = self.bed.run("sbatch", "--parsable", str(script)).strip()
        return self._done(start, handle)

    def engine(self) -> float:
        """SlurmEngine.submit of the same."""
        artifacts = self._artifacts()
        engine = engine_for(self.cluster)
        start = time.perf_counter()
        handles = engine.submit(artifacts)
        return self._done(start, handles["base"])

    def command(self) -> float:
        """`openrs submit` of the experiment."""
        self.count += 1
        options = sets(dict(one.split("=", 1) for one in self.overrides))
        start = time.perf_counter()
        run_openrs(
            *("submit", "smoke", "--cluster", "bed", "--run", f"command-{self.count}", *options),
            home=self.home,
        )
        return self._done(start, *self.bed.run("squeue", "-h", "-o", "%A").split())

    def _done(self, start: float, *handles: str) -> float:
        seconds = time.perf_counter() - start
        self.bed.run("scancel", *handles)
        self.bed.wait_gone()
        return seconds

    def query(self, runs: int) -> dict[str, list[float]]:
        """State of an array that waits: `inspect`, and squeue alone."""
        artifacts = self._artifacts()
        handle = engine_for(self.cluster).submit(artifacts)["base"]
        job = Job(artifacts.place.run, handle, self.cells, self.home)

        def ours() -> float:
            start = time.perf_counter()
            tasks = inspect([job])[handle].tasks
            seconds = time.perf_counter() - start
            assert len(tasks) == self.cells and set(tasks.values()) == {JobState.PENDING}, "not all cells wait"
            return seconds

        def theirs() -> float:
            start = time.perf_counter()
            lines = self.bed.run("squeue", "-h", "-r", "-j", handle).splitlines()
            seconds = time.perf_counter() - start
            assert len(lines) == self.cells, f"squeue shows {len(lines)} elements"
            return seconds

        return alternate({"squeue": theirs, "inspect": ours}, runs)


def import_seconds() -> float:
    """What the first submit of a process pays once: the import of submitit."""
    start = time.perf_counter()
    import openrs.engines.slurm_submitit  # noqa: F401

    return time.perf_counter() - start


def main() -> None:
    """Starts a bed, sends, asks, prints."""
    options = parser(__doc__, 10)
    options.add_argument("--cells", type=int, default=1000)
    args = options.parse_args()
    bytecode(args.cache)
    imported = import_seconds()
    with tempfile.TemporaryDirectory() as home, SlurmBed(Path(tempfile.mkdtemp(prefix="b-"))) as bed:
        os.environ.update(bed.env)  # the engine runs in this process
        bed.run("scontrol", "update", "partitionname=main", "state=down")
        version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        sender = Sender(bed, Path(home), args.cells)
        calls: dict[str, Callable[[], float]] = {
            "raw sbatch": sender.raw,
            "engine": sender.engine,
            "openrs submit": sender.command,
        }
        for call in calls.values():
            call()
        sent = alternate(calls, args.runs)
        note("asking")
        asked = sender.query(args.runs)
    print(f"{machine()}; {version}; {args.runs} rounds; {args.cells} cells; import of submitit {imported:.2f} s")
    raw = sent["raw sbatch"]
    rows = [(name, spread(values, 1, 3), ratio(values, raw)) for name, values in sent.items()]
    show("sending: seconds, median (min–max)", ("", "seconds", "× raw sbatch"), rows)
    rows = [(name, spread(values, 1, 3), ratio(values, asked["squeue"])) for name, values in asked.items()]
    show("asking: seconds, median (min–max)", ("", "seconds", "× squeue -r"), rows)
    print()
    over = [ours - theirs for ours, theirs in zip(sent["engine"], raw, strict=True)]
    verdict(f"engine at most {AIM:g} s over raw", median(over) <= AIM, f"{spread(over, 1, 3)} s over")
    over = [ours - theirs for ours, theirs in zip(sent["openrs submit"], raw, strict=True)]
    print(f"the whole command: {spread(over, 1, 3)} s over raw")


if __name__ == "__main__":
    main()
