from __future__ import annotations

import json
import sys

import pytest

from narspeech.errors import NarspeechError
from narspeech.train.curves import draw_curves
from narspeech.train.metrics import FILE

ENTRIES = [
    {"kind": "train", "update": 50, "loss": 9.0, "ctc": 9.0},
    {"kind": "train", "update": 100, "loss": 5.0, "ctc": 4.0, "decoder": 6.0},
    {"kind": "scores", "update": 100, "epoch": 1, "ctc_wer": 0.9, "ctc_cer": 0.6, "score": 0.9},
]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_picture_is_written(tmp_path, count):
    (tmp_path / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES[:count]))
    draw_curves(tmp_path, tmp_path / "curves.png")
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_translations_and_losses_of_nothing_are_drawn_too(tmp_path):
    entries = [{"kind": "train", "update": 1, "loss": 0.0, "ctc": 0.0}]
    entries += [{"kind": "scores", "update": 1, "epoch": 1, "cmlm_bleu": 31.0, "cmlm_chrf": 55.0, "score": 0.7}]
    (tmp_path / FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    draw_curves(tmp_path, tmp_path / "curves.png")
    assert len((tmp_path / "curves.png").read_bytes()) > 5000


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NarspeechError, match=r"narspeech\[train\]"):
        draw_curves(tmp_path, tmp_path / "curves.png")
