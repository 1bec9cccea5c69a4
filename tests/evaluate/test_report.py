"""Reading texts by id, joining, the report and the command's exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narspeech.errors import ManifestError
from narspeech.evaluate.error_rate import ErrorRate
from narspeech.evaluate.report import main
from narspeech.evaluate.scores import sample_lines, score, score_each
from narspeech.evaluate.texts import read_lines, read_texts

REFERENCES = "u1 the cat sat on the old mat\nu2 hello\nu3\n"
HYPOTHESES = "u2 hello\nu1 the bat sat the old mat again\nu3\n"


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_reads_lines_of_id_and_text(tmp_path: Path) -> None:
    path = put(tmp_path, "text", "\ufeffu1  A  b \r\n\nu2\nu3\tc d\nu4 \n")
    assert read_texts(path) == {"u1": "A  b", "u2": "", "u3": "c d", "u4": ""}


def test_reads_what_transcribe_and_prepare_write(tmp_path: Path) -> None:
    transcripts = lines(
        {"id": "u1", "path": "a/u1.wav", "text": "a b", "duration": 1.5, "confidence": 0.9},
        {"id": "u2", "path": "a/u2.wav", "text": "", "duration": 1.0, "confidence": 0.0, "error": None},
        # A line separator that JSON leaves as it is must not cut the record in two.
        {"id": "u3", "path": "a/u3.wav", "text": "c\u2028d", "duration": 1.0, "confidence": 0.5},
    )
    assert read_texts(put(tmp_path, "hyp.jsonl", transcripts)) == {"u1": "a b", "u2": "", "u3": "c\u2028d"}
    manifest = lines({"id": "u1", "audio": "u1.wav", "text": "x", "start": 0, "duration": 1, "speaker": None})
    assert read_texts(put(tmp_path, "manifest.jsonl", manifest)) == {"u1": "x"}


def test_failed_utterances_are_refused_or_empty(tmp_path: Path) -> None:
    path = put(tmp_path, "h.jsonl", lines({"id": "u1", "text": "a"}, {"id": "u2", "path": "x", "error": "not audio"}))
    with pytest.raises(ManifestError, match=r"received an error for u2 \(1\).*--failed-as-empty"):
        read_texts(path)
    assert read_texts(path, failed_as_empty=True) == {"u1": "a", "u2": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "received none"),
        (" \n\n", "received none"),
        ("u1 a\nu1 b\nu2 c\n", r"received again u1 \(1\)"),
        (lines({"id": "u1", "text": "a"}, {"id": "u1", "text": "a"}), r"received again u1 \(1\)"),
        ('{"id": "u1", "text": "a"}\nu2 b\n', "line 2"),
        ('{"id": "u1", "text": "a"}\n[1]\n', "line 2"),
        (lines({"id": 7, "text": "a"}), "id"),
        (lines({"id": "", "text": "a"}), "id"),
        (lines({"text": "a"}), "id"),
        (lines({"id": "u1", "audio": "a.wav"}), "received None"),
        (lines({"id": "u1", "text": ["a"]}), "string as text"),
        ('{"id":' + "[" * 100_000, "line 1"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_texts(put(tmp_path, "file", content))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ManifestError, match="readable UTF-8"):
            read_texts(path)
    (tmp_path / "sound.wav").write_bytes(b"RIFF\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="readable UTF-8"):
        read_texts(tmp_path / "sound.wav")


def test_ids_must_agree_and_at_most_five_are_named() -> None:
    references = {f"u{index}": "a" for index in range(12)}
    with pytest.raises(ManifestError, match=r"no hypothesis for u0, u1, u2, u3, u4, \.\.\. \(12 in all\)") as caught:
        score(references, {})
    assert "u5" not in str(caught.value)
    with pytest.raises(ManifestError, match=r"no reference for stray \(1\)"):
        score(references, {**references, "stray": "a"})
    with pytest.raises(ManifestError, match=r"no hypothesis for u11 \(1\) and no reference for stray \(1\)"):
        score(references, {**{f"u{index}": "a" for index in range(11)}, "stray": "a"})


def test_score_joins_by_id_not_by_order() -> None:
    scores = score({"u1": "a b", "u2": "c", "u3": ""}, {"u3": "x", "u2": "c", "u1": "a"})
    assert scores.word == ErrorRate(deletions=1, insertions=1, reference=3)
    assert scores.character == ErrorRate(deletions=2, insertions=1, reference=4)
    assert (scores.utterances, scores.sentence_errors) == (3, 2)
    assert scores.to_dict()["word"]["rate"] == pytest.approx(2 / 3)


def test_score_compares_as_given_unless_told() -> None:
    assert score({"u": "Don't, stop!"}, {"u": "don\u2019t stop"}).word.errors == 2
    assert score({"u": "Don't, stop!"}, {"u": "don\u2019t stop"}, normalise="basic").word.errors == 0
    each = score_each({"u": "A."}, {"u": "b"}, normalise="basic")
    assert (each[0].reference, each[0].hypothesis) == ("a", "b")
    assert score_each({}, {}).total().word == ErrorRate()


def test_table_is_aligned() -> None:
    table = score({"u": "a b c d"}, {"u": "a x c"}).table().split("\n")
    assert len(table) == 4
    assert len({len(row) for row in table}) == 1
    assert table[1].split() == ["word", "50.00", "2", "1", "1", "0", "4"]
    assert table[3].split() == ["sentence", "100.00", "1", "1"]


def test_sample_lines_show_every_kind_of_error() -> None:
    assert sample_lines("the cat  sat on the old mat", "the bat sat the old mat again") == (
        "ref  the cat sat on the old mat\nhyp  the {cat>bat} sat {-on} the old mat {+again}  (S 1, D 1, I 1 of 7)"
    )
    assert sample_lines("", "") == "ref  \nhyp   (S 0, D 0, I 0 of 0)"


def test_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)
    assert main(["--ref", str(ref), "--hyp", str(hyp)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "normalise: basic" in printed.out
    assert ["word", "37.50", "3", "1", "1", "1", "8"] in [row.split() for row in printed.out.split("\n")]


def test_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES.upper().replace("U", "u")), put(tmp_path, "hyp", HYPOTHESES)
    assert main(["--ref", str(ref), "--hyp", str(hyp), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["normalise"] == "basic"
    assert result["word"] == ErrorRate(substitutions=1, deletions=1, insertions=1, reference=8).to_dict()
    assert (result["utterances"], result["sentence_errors"]) == (3, 1)
    assert main(["--ref", str(ref), "--hyp", str(hyp), "--format", "json", "--normalise", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["word"]["errors"] == 8


def test_command_compares_two_systems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)
    argv = ["--ref", str(ref), "--hyp", str(ref), "--versus", str(hyp), "--samples", "300", "--seed", "3"]
    assert main([*argv, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["word"]["errors"] == 0
    assert result["versus"]["word"]["errors"] == 3
    assert result["bootstrap"]["delta"] == pytest.approx(-3 / 8)
    assert (result["bootstrap"]["samples"], result["bootstrap"]["seed"]) == (300, 3)
    assert main(argv) == 0
    assert "WER difference -37.50 points" in capsys.readouterr().out


def test_command_writes_each_utterance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = put(tmp_path, "ref", "u1 A b.\nu2 c\n")
    hyp = put(tmp_path, "hyp.jsonl", '{"id": "u1", "text": "a x\\ud800"}\n{"id": "u2", "error": "broken"}\n')
    out = tmp_path / "each.jsonl"
    argv = ["--ref", str(ref), "--hyp", str(hyp), "--per-utterance", str(out)]
    assert main(argv) == 2
    assert not out.exists()
    assert main([*argv, "--failed-as-empty"]) == 0
    capsys.readouterr()
    first, second = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert (first["id"], first["reference"], first["hypothesis"]) == ("u1", "a b", "a x\ud800")
    assert first["word"] == ErrorRate(substitutions=1, reference=2).to_dict()
    assert second["word"] == ErrorRate(deletions=1, reference=1).to_dict()


def test_command_never_overwrites_its_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)
    for target in (ref, tmp_path, tmp_path / "absent" / "each.jsonl"):
        assert main(["--ref", str(ref), "--hyp", str(hyp), "--per-utterance", str(target)]) == 2
        assert str(target) in capsys.readouterr().err
    assert ref.read_text(encoding="utf-8") == REFERENCES


def test_command_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, short = str(put(tmp_path, "ref", REFERENCES)), str(put(tmp_path, "hyp", "u1 a\n"))
    assert main(["--help"]) == 0
    assert "--per-utterance" in capsys.readouterr().out
    for argv in ([], ["--ref", ref], ["--ref", ref, "--hyp", ref, "--format", "xml"], ["--unknown"]):
        assert main(argv) == 2
        assert capsys.readouterr().out == ""
    for argv in (
        ["--ref", ref, "--hyp", short],
        ["--ref", ref, "--hyp", str(tmp_path / "absent")],
        ["--ref", ref, "--hyp", ref, "--versus", short],
        ["--ref", ref, "--hyp", ref, "--versus", ref, "--seed", "-1"],
        ["--ref", ref, "--hyp", ref, "--versus", ref, "--samples", "0"],
    ):
        assert main(argv) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("narspeech evaluate: expected")


# --- translations


def translations(folder: Path) -> tuple[str, str, str]:
    """A manifest of pairs, what a system made of it, and plain lines of the same."""
    texts = ["A dog runs through the deep snow.", "Two men sit on a green bench.", "A woman reads."]
    manifest = put(
        folder, "ref.jsonl", lines(*({"id": f"{n}", "source": "x", "target": text} for n, text in enumerate(texts, 1)))
    )
    worse = [text.replace("deep", "old").replace("Two", "Three") for text in texts]
    hypotheses = lines(*({"id": f"{n}", "source": "x", "text": text} for n, text in enumerate(worse, 1)))
    return (
        str(manifest),
        str(put(folder, "hyp.jsonl", hypotheses)),
        str(put(folder, "hyp.txt", "\n".join(worse) + "\n")),
    )


def test_command_scores_translations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp, plain = translations(tmp_path)
    assert main(["--metric", "bleu,chrf", "--ref", ref, "--hyp", hyp]) == 0
    printed = capsys.readouterr().out
    assert "normalise: none" in printed
    assert "nrefs:1|case:mixed" in printed
    assert main(["--metric", "bleu", "--ref", ref, "--hyp", hyp, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"utterances", "bleu"}
    assert 0 < result["bleu"]["score"] < 100
    assert main(["--metric", "bleu", "--lines", "--ref", plain, "--hyp", plain, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["bleu"]["score"] == pytest.approx(100)


def test_command_compares_translations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp, _ = translations(tmp_path)
    argv = ["--metric", "wer,bleu,chrf", "--ref", ref, "--hyp", ref, "--versus", hyp, "--samples", "50"]
    assert main([*argv, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["word"]["errors"] == 0
    assert result["versus"]["word"]["errors"] == 2
    assert result["bleu"]["bootstrap"]["delta"] == pytest.approx(100 - result["bleu"]["versus"])
    assert result["bleu"]["normalise"] == "none"
    assert result["normalise"] == "basic"
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for start in ("WER difference -", "BLEU difference +", "chrF difference +"):
        assert start in printed
    assert "(above 0: the first is better)" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "ter"], "expected metrics among wer, bleu, chrf, received 'ter'"),
        (["--metric", "bleu", "--per-utterance", "each.jsonl"], "expected the metric wer with --per-utterance"),
        (["--metric", "bleu", "--lines"], "no reference for 4"),
    ],
)
def test_command_refuses_what_it_cannot_score(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ref, hyp = put(tmp_path, "ref", "1 a\n2 b\n3 c\n"), put(tmp_path, "hyp", "1 a\n2 b\n3 c\n\n")
    assert main(["--ref", str(ref), "--hyp", str(hyp), *flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_lines_may_be_empty_and_are_numbered(tmp_path: Path) -> None:
    assert read_lines(put(tmp_path, "text", "\ufeffa b\n\n c\u2028d \r\n")) == {"1": "a b", "2": "", "3": "c\u2028d"}
    with pytest.raises(ManifestError, match="received none"):
        read_lines(put(tmp_path, "none", ""))
