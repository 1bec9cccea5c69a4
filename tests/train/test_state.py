from __future__ import annotations

import json
import shutil

import pytest
import torch

from narspeech.errors import CheckpointError
from narspeech.train.optim import OptimConfig, adamw
from narspeech.train.state import Position, best_weights, load_state, read_state, save_state, saved
from tests.train.songs import new_model


def trained(seed):
    """A model and an optimizer with some moments."""
    model = new_model(seed=seed)
    optimizer = adamw(model, OptimConfig())
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    return model, optimizer


def equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(x, second[name]) for name, x in first.items())


def test_everything_comes_back(tmp_path):
    model, optimizer = trained(0)
    position = Position(epoch=3, step=7, update=42, skipped=2, failures=1, infeasible=5, best=[(0.25, 2), (0.5, 1)])
    save_state(tmp_path, model, optimizer, position)
    other = new_model(seed=1)
    fresh = adamw(other, OptimConfig())
    assert load_state(tmp_path, other, fresh) == position
    assert equal(model.state_dict(), other.state_dict())
    before, after = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert before.keys() == after.keys()
    assert all(equal(before[number], after[number]) for number in before)
    assert [path.name for path in best_weights(tmp_path)] == ["epoch-0002.safetensors", "epoch-0001.safetensors"]


def test_nothing_there_is_a_fresh_start(tmp_path):
    model, optimizer = trained(0)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert load_state(tmp_path, model, optimizer) == Position()
    assert equal(before, model.state_dict())
    assert best_weights(tmp_path) == []


def test_older_states_and_what_kills_left_are_removed(tmp_path):
    model, optimizer = trained(0)
    save_state(tmp_path, model, optimizer, Position(update=5))
    (tmp_path / ".resume-00000010-0000").mkdir()
    (tmp_path / ".epoch-0001.safetensors.abc.tmp").write_bytes(b"half")
    (tmp_path / "epoch-0001.safetensors").write_bytes(b"kept")
    save_state(tmp_path, model, optimizer, Position(update=10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001.safetensors", "resume-00000010-0000"]


def test_the_end_of_an_epoch_replaces_a_state_of_the_same_update(tmp_path):
    model, optimizer = trained(0)
    save_state(tmp_path, model, optimizer, Position(update=10, epoch=0, step=10))
    save_state(tmp_path, model, optimizer, Position(update=10, epoch=1, best=[(0.5, 1)]))
    assert read_state(tmp_path).position.best == [(0.5, 1)]
    assert len(saved(tmp_path)) == 1


@pytest.mark.parametrize("place", ["model.safetensors", "optimizer.safetensors", "position.json"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_state_is_passed_over(tmp_path, capsys, place, harm):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    model, optimizer = trained(0)
    save_state(tmp_path / "a", model, optimizer, Position(update=5))
    shutil.copytree(tmp_path / "a" / "resume-00000005-0000", tmp_path / "b" / "resume-00000005-0000")
    changed, moved = trained(1)
    save_state(tmp_path / "a", changed, moved, Position(update=10))
    damaged = shutil.copytree(tmp_path / "a" / "resume-00000010-0000", tmp_path / "b" / "resume-00000010-0000")
    file = damaged / place
    if harm == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    other = new_model(seed=2)
    assert load_state(tmp_path / "b", other, adamw(other, OptimConfig())).update == 5
    assert equal(model.state_dict(), other.state_dict())
    # Without its position a folder is no state at all: a kill while an old one is removed leaves that.
    assert ("left out" in capsys.readouterr().err) == ((place, harm) != ("position.json", "gone"))
    # Training on from the older one reaches the damaged one's update again, and replaces it.
    save_state(tmp_path / "b", changed, moved, Position(update=10))
    assert equal(read_state(tmp_path / "b").weights, changed.state_dict())


def test_only_damaged_states_are_an_error_and_no_silent_start_from_nothing(tmp_path):
    model, optimizer = trained(0)
    save_state(tmp_path, model, optimizer, Position(update=5))
    path = next(tmp_path.glob("resume-*")) / "position.json"
    path.write_text(json.dumps({"update": 5, "surprise": 1, "best": []}))
    with pytest.raises(CheckpointError, match="received 1 that cannot be read"):
        load_state(tmp_path, model, optimizer)


def test_a_state_of_another_model_is_refused(tmp_path):
    save_state(tmp_path, *trained(0), Position(update=5))
    other = new_model(decoder="ctc")
    with pytest.raises(CheckpointError, match="to fit the configured model"):
        load_state(tmp_path, other, adamw(other, OptimConfig()))
