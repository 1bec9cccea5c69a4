"""A teacher writes training texts anew, may be interrupted, and shares its folder with no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from narspeech import checkpoint
from narspeech.data.pairs import Pair, PairDataset
from narspeech.decoders.base import DecodeOptions
from narspeech.distill import Teacher, Written, read_partial
from narspeech.errors import ConfigError
from narspeech.translator import translate
from tests.fakes import TOKENIZER, nonsense, tiny_model

SOURCES = [TOKENIZER.decode(row.tolist()) for row in nonsense([9, 3, 5, 12, 1, 7, 6, 4]).unpack()]
PAIRS = [Pair(id=f"p{number}", source=source, target="x") for number, source in enumerate(SOURCES)]
IDS = [pair.id for pair in PAIRS]
DATA = PairDataset(PAIRS, TOKENIZER)
TOGETHER = 14.0  # several batches


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    checkpoint.save(folder, tiny_model("cmlm", "text", decoding=DecodeOptions(steps=2)))
    return folder


def teacher(folder: Path, beam: int = 2) -> Teacher:
    return Teacher(folder, beam=beam, device=torch.device("cpu"))


def test_texts_are_what_the_teacher_writes(folder: Path, tmp_path: Path) -> None:
    written: list[list[str]] = []
    teacher(folder).distill(tmp_path / "out", "part", IDS, DATA, TOGETHER, written.append)
    expected = translate([pair.source for pair in PAIRS], model=folder, beam=2, device="cpu")
    assert written == [[one.text for one in expected]]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["teacher"]["sha256"]) == 64
    assert manifest["decoding"]["beam"] == 2
    summary = manifest["parts"]["part"]
    assert summary["examples"] == len(PAIRS)
    assert summary["empty"] == sum(not one.text for one in expected)
    assert summary["mean_score"] == pytest.approx(sum(one.score for one in expected) / len(PAIRS), abs=1e-3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    # A part that is done is not done again.
    teacher(folder).distill(tmp_path / "out", "part", IDS, DATA, TOGETHER, written.append)
    assert len(written) == 1


def test_a_killed_distillation_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []
    teacher(folder).distill(tmp_path / "whole", "part", IDS, DATA, TOGETHER, written.append)
    mortal = teacher(folder)
    decode, decoded = mortal.model.decode, []

    def dying(source, options, decoder):  # type: ignore[no-untyped-def]
        if len(decoded) >= 4:
            raise Killed
        decoded.extend(source.lengths.tolist())
        return decode(source, options, decoder)

    monkeypatch.setattr(mortal.model, "decode", dying)
    with pytest.raises(Killed):
        mortal.distill(tmp_path / "out", "part", IDS, DATA, TOGETHER, written.append)
    partial = tmp_path / "out" / "part.partial"
    lines = partial.read_text().splitlines(keepends=True)
    assert 4 <= len(lines) < len(IDS)
    partial.write_text("".join(lines)[:-3])  # the last line is cut
    again = teacher(folder)
    decode, seen = again.model.decode, []

    def noting(source, options, decoder):  # type: ignore[no-untyped-def]
        seen.extend(source.lengths.tolist())
        return decode(source, options, decoder)

    monkeypatch.setattr(again.model, "decode", noting)
    again.distill(tmp_path / "out", "part", IDS, DATA, TOGETHER, written.append)
    assert len(seen) == len(IDS) - len(lines) + 1
    assert written[0] == written[1]
    whole, resumed = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("whole", "out"))
    assert whole["parts"] == resumed["parts"]


def test_a_line_may_be_cut_within_a_character(tmp_path: Path) -> None:
    partial = tmp_path / "part.partial"
    whole = '["a", "Straße", -0.5]\n'.encode()
    partial.write_bytes(whole + '["b", "ß'.encode()[:-1])
    assert read_partial(partial) == {"a": Written("Straße", -0.5)}
    assert partial.read_bytes() == whole


def test_a_folder_has_one_teacher(folder: Path, tmp_path: Path) -> None:
    teacher(folder).distill(tmp_path, "part", IDS, DATA, TOGETHER, lambda _: None)
    with pytest.raises(ConfigError, match="written by the teacher"):
        teacher(folder, beam=3).distill(tmp_path, "other", IDS, DATA, TOGETHER, lambda _: None)
    other = tmp_path / "other"
    checkpoint.save(other, tiny_model("cmlm", "text", seed=1, decoding=DecodeOptions(steps=2)))
    with pytest.raises(ConfigError, match="texts of another"):
        teacher(other).distill(tmp_path, "other", IDS, DATA, TOGETHER, lambda _: None)
    teacher(folder).distill(tmp_path, "other", IDS, DATA, TOGETHER, lambda _: None)
    assert set(json.loads((tmp_path / "manifest.json").read_text())["parts"]) == {"part", "other"}


def test_nothing_written_yet(tmp_path: Path) -> None:
    assert read_partial(tmp_path / "new.partial") == {}
    options = teacher_options(tmp_path)
    assert options == replace(DecodeOptions(steps=2), beam=4)


def teacher_options(tmp_path: Path) -> DecodeOptions:
    checkpoint.save(tmp_path / "model", tiny_model("cmlm", "text", decoding=DecodeOptions(steps=2)))
    return teacher(tmp_path / "model", beam=4).options
