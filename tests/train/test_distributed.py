from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from narspeech.data.batching import make_batches, shard, steps
from narspeech.data.example import read_manifest
from narspeech.run import main
from narspeech.train import distributed
from narspeech.train.metrics import read_metrics
from tests.train.songs import REFINING, arguments, write_librispeech

ROOT = Path(__file__).parents[2]
PROFILE = f"{ROOT / 'recipes' / 'librispeech' / 'recipe.py'}:mini_mask_ctc"
# Seven micro-batches, three an update: one process takes two of them and the other one, in the end one and none.
SECONDS = 2.6
SETTINGS = arguments(
    **REFINING,
    data__speeds="1.0",
    model__encoder__dropout=0.0,
    model__decoder__dropout=0.0,
    train__accumulate=3,
    train__epochs=2,
    train__max_seconds=SECONDS,
)


def torchrun(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(processes), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,  # against a hang; it takes seconds where the processors are free
        check=False,
    )


def test_two_processes_on_unequal_shards_train_as_one(tmp_path):
    data = write_librispeech(tmp_path / "data")
    one, two = tmp_path / "one", tmp_path / "two"
    given = [PROFILE, "--data", str(data), *SETTINGS, "--out"]
    assert main([*given, str(one)]) == 0
    check_shards(one)
    done = torchrun(2, "-m", "narspeech", "run", *given, str(two))
    assert done.returncode == 0, done.stderr
    expected, found = read_metrics(one), read_metrics(two)
    assert [(entry["kind"], entry["update"]) for entry in found] == [
        (entry["kind"], entry["update"]) for entry in expected
    ]
    train = [(entry, other) for entry, other in zip(expected, found, strict=True) if entry["kind"] == "train"]
    assert len(train) >= 4
    for entry, other in train:
        for name in ("loss", "ctc", "intermediate", "decoder", "masked"):
            assert other[name] == pytest.approx(entry[name], rel=1e-5), (entry["update"], name)
    # The first process alone prepares, averages, decodes and scores.
    assert done.stderr.count("narspeech: average") == 1
    assert done.stdout.count("WER") == 3
    assert json.loads((two / "scores.json").read_text()).keys() == json.loads((one / "scores.json").read_text()).keys()


def check_shards(out: Path) -> None:
    """The plan was what this test is about: shards of unequal sizes, and in a last step one without any."""
    sizes = set()
    for epoch in range(2):
        durations = training_durations(out)
        plan = steps(make_batches(durations, max_seconds=SECONDS, seed=0, epoch=epoch), 3)
        sizes |= {(len(shard(step, 0, 2)), len(shard(step, 1, 2))) for step in plan}
    assert (2, 1) in sizes
    assert (1, 0) in sizes


def training_durations(out: Path) -> list[float]:
    index = json.loads((out / "cache" / "train" / "index.json").read_text())
    examples = {example.id: example for example in read_manifest(next(out.rglob("train-clean-5.jsonl")))}
    return [examples[entry["id"]].duration for entry in index["recordings"]]


def test_a_process_alone_needs_no_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.start() == (0, 1)
    parameter = torch.nn.Parameter(torch.ones(2))
    distributed.sum_gradients([parameter])
    assert parameter.grad is None
    assert distributed.sum_values(torch.tensor([2.0])).tolist() == [2.0]
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    distributed.average_buffers([torch.ones(1)])
    distributed.wait()
    distributed.stop()


PIECES = """
import torch
from narspeech.train import distributed

rank, world = distributed.start()
assert distributed.start() == (rank, world) and world == 3
first, second = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
if rank == 1:
    first.grad = torch.ones(2, 2)
if rank == 2:
    first.grad = torch.full((2, 2), 2.0)
distributed.sum_gradients([first, second])
assert first.grad.tolist() == [[3.0, 3.0]] * 2 and second.grad.tolist() == [[0.0, 0.0]] * 2
constant, running, count = torch.tensor([0.1, 1e-7, 123.4]), torch.tensor([float(rank)]), torch.tensor(rank)
before = constant.clone()
distributed.average_buffers([constant, running, count])
assert torch.equal(constant, before) and running.tolist() == [1.0] and int(count) == rank
assert distributed.gather(rank) == [0, 1, 2]
assert distributed.sum_values(torch.tensor([1.0])).tolist() == [3.0]
distributed.wait()
distributed.stop()
print("fine", rank)
"""


def test_the_pieces_with_three_processes(tmp_path):
    (tmp_path / "pieces.py").write_text(PIECES)
    done = torchrun(3, str(tmp_path / "pieces.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine") == 3
