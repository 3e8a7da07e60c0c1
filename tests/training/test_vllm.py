"""Generation with vLLM: its real engine, scheduler and sampler; the worker is a stand-in on the CPU (`vllm_cpu.py`)."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch

from openrs.data.load import model_path
from openrs.spec.experiment import VllmGeneration
from openrs.spec.parts import Sampling
from openrs.training import sizes
from openrs.training.generation import Completion, Request, request_seed
from openrs.training.generation import engine as engines
from openrs.training.generation.colocate import ColocateGenerator, executor_class
from openrs.training.generation.engine import Engine
from openrs.training.generation.remote import RemoteGenerator
from openrs.training.generation.server import Server
from openrs.training.model import load_model
from openrs.worker.rank import Rank
from tests.training import vllm_cpu
from tests.training.harness import Job, tiny

pytestmark = pytest.mark.train

EXPERIMENT = tiny()
NAME, REVISION = model_path(EXPERIMENT.model)
SAMPLING = Sampling(temperature=1.0, max_prompt_tokens=32, max_new_tokens=24)
PROMPT = [1, 30, 40, 50, 4, 60, 70]
END = 2


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_cpu.install(monkeypatch)


def build(sampling: Sampling = SAMPLING, sequences: int = 8) -> Engine:
    window = sampling.max_prompt_tokens + sampling.max_new_tokens
    return Engine(engines.build(NAME, REVISION, "float32", window, sequences, executor_class()), sampling)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(NAME, REVISION, "float32", "sdpa")


def requests(count: int, step: int = 0) -> list[Request]:
    return [Request(PROMPT, request_seed(7, step, 3, number)) for number in range(count)]


def never() -> bool:
    return False


def test_a_completion_depends_on_its_seed_and_the_weights_alone(model: Any) -> None:
    random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), torch.get_rng_state()
    generator = ColocateGenerator(build(), [END])
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    generator.sync(model, 0)
    drawn = generator.generate(requests(6), never)
    assert drawn is not None and len({tuple(one.ids) for one in drawn}) > 1
    for one in drawn:
        assert one.finished == (one.ids[-1] == END) and END not in one.ids[:-1]
        assert 1 <= len(one.ids) <= SAMPLING.max_new_tokens and (one.finished or len(one.ids) == 24)
    assert generator.generate(list(reversed(requests(6))), never) == list(reversed(drawn))
    assert generator.generate(requests(6)[2:3], never) == drawn[2:3]
    assert torch.equal(torch.get_rng_state(), states[1])
    with torch.no_grad():
        original = model.lm_head.weight.clone()
        model.lm_head.weight.mul_(-1)
        generator.sync(model, 1)
        model.lm_head.weight.copy_(original)
    assert generator.generate(requests(6), never) != drawn


def test_the_weights_are_the_trainers(model: Any) -> None:
    """At a temperature near 0 it says what the model itself finds most likely."""
    cold = SAMPLING.model_copy(update={"temperature": 0.001})
    generator = ColocateGenerator(build(cold), [END])
    generator.sync(model, 0)
    drawn = generator.generate(requests(1), never)
    assert drawn is not None
    ids = list(PROMPT)
    while len(ids) < len(PROMPT) + len(drawn[0].ids):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert drawn[0].ids == ids[len(PROMPT) :]


def test_weights_that_are_missing_or_unknown_are_seen(model: Any) -> None:
    engine = build()
    weights = [(name, parameter.data) for name, parameter in model.named_parameters()]
    with pytest.raises(RuntimeError, match=r"no weights for model\.norm\.weight \(1 in all\)"):
        engine.load(item for item in weights if item[0] != "model.norm.weight")
    with pytest.raises(KeyError, match="model.layers.9"):
        engine.load([("model.layers.9.weight", weights[0][1])])


def test_a_stop_leaves_at_once_and_leaves_nothing(model: Any) -> None:
    generator = ColocateGenerator(build(), [END])
    generator.sync(model, 0)
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks > 4

    assert generator.generate(requests(6), stop) is None and looks == 5
    engine = generator._engine
    assert not engine.busy and not engine._engine.has_unfinished_requests()
    fresh = ColocateGenerator(build(), [END])
    fresh.sync(model, 0)
    assert generator.generate(requests(6), never) == fresh.generate(requests(6), never)


def test_nothing_may_be_preempted(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The KV cache that is asked for holds all sequences at their longest; a smaller one is not worked with."""
    generator = ColocateGenerator(build(), [END])
    generator.sync(model, 0)
    drawn = generator.generate(requests(8), never)
    assert drawn is not None
    blocks = sum(-(-(len(PROMPT) + len(one.ids)) // sizes.KV_BLOCK_TOKENS) for one in drawn)
    assert 9 < blocks <= sizes.kv_blocks(8, SAMPLING.max_prompt_tokens + SAMPLING.max_new_tokens)
    monkeypatch.setattr(engines, "kv_blocks", lambda sequences, window: 9)
    generator = ColocateGenerator(build(), [END])
    generator.sync(model, 0)
    with pytest.raises(RuntimeError, match="preempted"):
        generator.generate(requests(8), never)


def test_an_engine_that_stands_still_is_found(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = ColocateGenerator(build(), [END])
    generator.sync(model, 0)
    monkeypatch.setattr(engines, "STALL_SECONDS", 0.05)
    engine = generator._engine._engine

    def idle() -> list[Any]:
        time.sleep(0.02)
        return []

    monkeypatch.setattr(engine, "step", idle)
    with pytest.raises(RuntimeError, match="no token"):
        generator.generate(requests(2), never)


def test_a_run_with_an_engine_in_the_trainer(
    job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole trainer on one rank; then killed and gone on with, bit for bit."""
    from openrs.stage import StageFile, read
    from openrs.training.session import run_session

    # The spec would refuse vLLM without a GPU.
    experiment = tiny("training.steps=3").model_copy(update={"generation": VllmGeneration(type="vllm")})
    weights = []
    for name, stops in (("whole", 99), ("cut", 2)):
        job = job_of(experiment, name)
        job.attempt = 1
        for key, value in job.environment().items():
            monkeypatch.setenv(key, value)
        stage = read(StageFile, job.stage_path)
        rank = Rank.from_environment()
        monkeypatch.setattr(Rank, "stop_requested", lambda self, job=job, stops=stops: len(job.seen()) >= stops)
        code = run_session(stage, experiment, job.run, rank)
        assert code == (75 if name == "cut" else 0)
        monkeypatch.setattr(Rank, "stop_requested", lambda self: False)
        if name == "cut":
            for key, value in job.environment().items():
                monkeypatch.setenv(key, value)
            assert [line["step"] for line in job.metrics()] == [1, 2]
            assert run_session(stage, experiment, job.run, rank) == 0
        weights.append((job.run.checkpoint(3) / "model.safetensors").read_bytes())
        assert [line["step"] for line in job.metrics()] == [1, 2, 3]
        assert all(0 < line["completion_tokens"] <= 48 for line in job.metrics())
    assert weights[0] == weights[1]


RANK = """
import json, os, sys, torch
torch.distributed.init_process_group("gloo")
import pytest
from tests.training import vllm_cpu
vllm_cpu.install(pytest.MonkeyPatch())
from tests.training.test_vllm import END, NAME, REVISION, build, never, requests
from openrs.training.generation.colocate import ColocateGenerator
from openrs.training.model import load_model
rank = torch.distributed.get_rank()
generator = ColocateGenerator(build(), [END])
generator.sync(load_model(NAME, REVISION, "float32", "sdpa"), 0)
for _ in range(1 + rank):  # nothing in it waits for the other rank
    drawn = generator.generate(requests(6)[rank * 3 : rank * 3 + 3], never)
total = torch.ones(1) * (rank + 1)
torch.distributed.all_reduce(total)
print(json.dumps({"ids": [one.ids for one in drawn], "world": torch.distributed.get_world_size(), "sum": total.item()}))
"""


def test_an_engine_in_each_of_two_ranks(model: Any) -> None:
    """Two processes over gloo: each draws its own share, and together they are what one rank draws."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        processes.append(_start(RANK, {key: str(value) for key, value in environment.items()}))
    found = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        found.append(json.loads(out.splitlines()[-1]))
    assert [one["world"] for one in found] == [2, 2] and [one["sum"] for one in found] == [3.0, 3.0]
    generator = ColocateGenerator(build(), [END])
    generator.sync(model, 0)
    alone = generator.generate(requests(6), never)
    assert alone is not None and found[0]["ids"] + found[1]["ids"] == [one.ids for one in alone]


def _start(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    import os

    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    """The generation server on a port, its main thread a thread of this process."""
    made = Server(build(), torch.device("cpu"))
    http = made.listen("127.0.0.1", 0)
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            made.turn()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield made, f"127.0.0.1:{http.server_port}"
    stopped.set()
    made.ask("/abort", {"key": "nothing"})  # so that it looks up
    thread.join(10)
    http.shutdown()
    http.server_close()


def rank(number: int = 0) -> Any:
    return SimpleNamespace(rank=number, world=1)


def test_the_server_draws_what_an_engine_in_the_trainer_draws(server: tuple[Server, str], model: Any) -> None:
    remote = RemoteGenerator(server[1], rank(), [END])
    with pytest.raises(RuntimeError, match="weights are of step None, not of step 0"):
        remote.generate(requests(2), never)
    own = ColocateGenerator(build(), [END])
    for step in range(2):  # the channel is opened once and used again
        remote.sync(model, step)
        own.sync(model, step)
        found: dict[int, list[Completion] | None] = {}
        others = [RemoteGenerator(server[1], rank(number), [END]) for number in (1, 2)]
        for other in others:
            other._step = step

        def draw(number: int, other: RemoteGenerator, step: int = step, found: Any = found) -> None:
            found[number] = other.generate(requests(6, step)[number * 2 :][:2], never)

        threads = [threading.Thread(target=draw, args=item) for item in enumerate([remote, *others])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        alone = own.generate(requests(6, step), never)
        assert alone is not None and [found[0], found[1], found[2]] == [alone[:2], alone[2:4], alone[4:]]


def test_the_server_is_left_within_a_second(
    server: tuple[Server, str], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteGenerator(server[1], rank(), [END])
    remote.sync(model, 0)
    step = server[0]._engine._engine.step

    def slow() -> Any:
        time.sleep(0.3)
        return step()

    monkeypatch.setattr(server[0]._engine._engine, "step", slow)
    assert remote.generate(requests(4), lambda: True) is None
    monkeypatch.undo()
    vllm_cpu.install(monkeypatch)
    remote.sync(model, 1)  # nothing runs there any more
    assert remote.generate(requests(2, 1), never) is not None
