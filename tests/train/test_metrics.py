from __future__ import annotations

import json

import pytest
import torch

from narspeech.errors import NarspeechError
from narspeech.train.metrics import FILE, MetricsLog, read_metrics


def train(update, **values):
    return {"kind": "train", "update": update, "epoch": 1, **values}


def fill(folder, *entries, rest=""):
    (folder / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries) + rest)


def test_sums_gather_until_they_are_flushed(tmp_path):
    log = MetricsLog(tmp_path, 0, 0, rank=0)
    log.add({"loss": torch.tensor(1.5), "count": torch.tensor(2)})
    log.add({"loss": torch.tensor(2.5), "rare": torch.tensor(1.0)})
    assert log.flush() == {"loss": 4.0, "count": 2.0, "rare": 1.0}
    assert log.flush() == {}


def test_lines_are_appended_and_read_again(tmp_path, capsys):
    log = MetricsLog(tmp_path, 0, 0, rank=0)
    assert read_metrics(tmp_path) == []
    log.write("train", {"update": 1, "loss": 2.0}, "first")
    log.write("scores", {"update": 1, "epoch": 1, "wer": 0.5}, "second")
    assert [entry["kind"] for entry in read_metrics(tmp_path)] == ["train", "scores"]
    assert capsys.readouterr().err == "first\nsecond\n"


def test_other_ranks_write_nothing(tmp_path, capsys):
    fill(tmp_path, train(5))
    log = MetricsLog(tmp_path, 0, 0, rank=1)
    log.write("train", {"update": 1}, "message")
    assert [entry["update"] for entry in read_metrics(tmp_path)] == [5]
    assert capsys.readouterr().err == ""


def test_a_resumed_log_drops_what_will_happen_again(tmp_path):
    scores = [{"kind": "scores", "update": 4 * epoch, "epoch": epoch} for epoch in (1, 2)]
    fill(tmp_path, train(2), train(4), scores[0], train(6), train(8), scores[1], train(10))
    MetricsLog(tmp_path, 8, 2, rank=0)
    assert read_metrics(tmp_path) == [train(2), train(4), scores[0], train(6), train(8), scores[1]]
    MetricsLog(tmp_path, 8, 1, rank=0)  # the last update of epoch 2 is done, its evaluation is not
    assert read_metrics(tmp_path)[-1] == train(8)
    MetricsLog(tmp_path, 3, 0, rank=0)
    assert read_metrics(tmp_path) == [train(2)]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    fill(tmp_path, train(2), train(4), rest='{"kind": "train", "upd')
    assert [entry["update"] for entry in read_metrics(tmp_path)] == [2, 4]
    log = MetricsLog(tmp_path, 4, 0, rank=0)
    log.write("train", {"update": 6}, "")
    assert [entry["update"] for entry in read_metrics(tmp_path)] == [2, 4, 6]


def test_a_damaged_line_is_named(tmp_path):
    fill(tmp_path, train(2), rest="oops\n" + json.dumps(train(4)) + "\n")
    with pytest.raises(NarspeechError, match=r"line 2 of .*metrics\.jsonl"):
        read_metrics(tmp_path)


def test_the_board_gets_the_finite_numbers(tmp_path):
    log = MetricsLog(tmp_path, 0, 0, rank=0, tensorboard=True)
    log.write("train", {"update": 1, "loss": 2.0, "bad": float("nan")}, "")
    log.close()
    assert any((tmp_path / "tensorboard").iterdir())
