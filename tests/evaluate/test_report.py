"""The command: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from narspeech.evaluate.error_rate import ErrorRate
from narspeech.evaluate.report import main
from tests.fakes import lines, put

REFERENCES = "u1 the cat sat on the old mat\nu2 hello\nu3\n"
HYPOTHESES = "u2 hello\nu1 the bat sat the old mat again\nu3\n"


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
        folder,
        "ref.jsonl",
        lines(*({"id": f"{n}", "source": "x", "target": text} for n, text in enumerate(texts, 1))),
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
        (["--metric", "bleu", "--details"], "expected the metric wer with --details"),
        (["--metric", "chrf", "--alignment", "sclite"], "expected the metric wer with --alignment"),
        (["--metric", "bleu", "--lines"], "no reference for 4"),
        (
            ["--metric", "bleu", "--max-wer", "5"],
            "expected the metric wer with --max-wer, which is about word errors, received bleu: "
            "add wer (--metric bleu,wer), or leave --max-wer out",
        ),
        (["--max-wer", "-1"], "expected a WER in per cent of 0 or more"),
        (["--max-wer", "nan"], "expected a WER in per cent of 0 or more"),
        (["--lines", "--ref-format", "trn"], "expected --lines or forms"),
        (["--speaker", "["], "expected a regular expression for the speaker"),
        (["--html", "absent/page.html"], "expected a file name in a folder that exists"),
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


# --- files written, the gate


def test_max_wer_is_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)  # 37.5 %
    for highest, code in (("37.5", 0), ("37.4", 1), ("100", 0), ("0", 1)):
        assert main(["--ref", str(ref), "--hyp", str(hyp), "--max-wer", highest]) == code
        printed = capsys.readouterr()
        assert "37.50" in printed.out  # the report is printed in either case
        assert printed.err == (
            f"narspeech evaluate: expected a WER of at most {highest} %, received 37.50 %\n" if code else ""
        )


def test_signature_tells_how_the_score_came_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)
    argv = ["--ref", str(ref), "--hyp", str(hyp), "--format", "json"]
    assert main(argv) == 0
    first = json.loads(capsys.readouterr().out)["signature"]
    for part in ("scorer:narspeech-", "align:jiwer-1/1/1-rapidfuzz-", "units:word+character", "norm:basic.v1-unicode"):
        assert part in first
    assert main([*argv, "--alignment", "sclite", "--normalise", "none", "--failed-as-empty"]) == 0
    second = json.loads(capsys.readouterr().out)["signature"]
    for part in ("align:sclite-4/3/3", "norm:none", "failed:empty"):
        assert part in second


def test_json_file_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = put(tmp_path, "ref", "7-1-0 the cat sat\n7-1-1 a dog\n8-2-0 hello there\n")
    hyp = put(tmp_path, "hyp", "7-1-0 the bat sat\n7-1-1 a big dog\n8-2-0 hello\n")
    out = tmp_path / "all.json"
    assert main(["--ref", str(ref), "--hyp", str(hyp), "--json", str(out), "--versus", str(ref)]) == 0
    assert "speaker" not in capsys.readouterr().out  # unless --details
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["word"] == ErrorRate(substitutions=1, deletions=1, insertions=1, reference=7).to_dict()
    assert found["speakers"].keys() == {"7", "8"}
    assert found["speakers"]["8"]["word"]["deletions"] == 1
    assert found["lengths"].keys() == {"1-5"}
    assert found["confusions"]["substitutions"] == [{"reference": "cat", "hypothesis": "bat", "count": 1}]
    assert [each["id"] for each in found["each"]] == ["7-1-0", "7-1-1", "8-2-0"]
    assert found["sentence_rate"] == 1
    assert {"versus", "bootstrap", "signature"} <= found.keys()


def test_details_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = put(tmp_path, "ref", REFERENCES), put(tmp_path, "hyp", HYPOTHESES)
    argv = ["--ref", str(ref), "--hyp", str(hyp), "--details"]
    assert main(argv) == 0
    rows = [row.split() for row in capsys.readouterr().out.split("\n")]
    assert ["cat", ">", "bat", "1"] in rows
    assert ["on", "1"] in rows
    assert ["again", "1"] in rows
    assert not any(row[:1] == ["speaker"] for row in rows)  # the ids name none
    assert main([*argv, "--speaker", r"(u[12])|(u)"]) == 0
    assert "speaker" in capsys.readouterr().out
    assert main([*argv, "--speaker", r"x(.)"]) == 2
    assert "expected a speaker in every id" in capsys.readouterr().err


def test_text_that_cannot_be_printed_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = put(tmp_path, "ref.jsonl", '{"id": "a", "text": "hello \\ud800x world"}\n')
    hyp = put(tmp_path, "hyp.jsonl", '{"id": "a", "text": "hello world"}\n')
    assert main(["--ref", str(ref), "--hyp", str(hyp), "--details"]) == 0
    assert "\\ud800x" in capsys.readouterr().out


class _Page(HTMLParser):
    """The tags of a page, and whether they are closed in order; what they refer to, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.references: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.references += [name for name, _ in attributes if name in ("src", "href", "data", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_report_is_whole_and_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = put(tmp_path, "ref", "a-1 <b>bold</b> & x\na-2 same\n<i>-3 y z\n")
    hyp = put(tmp_path, "hyp", "a-1 <script>alert(1)</script> & x more\na-2 same\n<i>-3 z\n")
    out = tmp_path / "page.html"
    argv = ["--ref", str(ref), "--hyp", str(hyp), "--html", str(out), "--normalise", "none", "--versus", str(ref)]
    assert main(argv) == 0
    capsys.readouterr()
    raw = out.read_text(encoding="utf-8")
    page = _Page(raw)
    assert page.open == []
    assert not page.references
    assert not {"script", "b", "i", "link", "img", "iframe"} & page.counts.keys()
    assert "://" not in raw
    assert "@import" not in raw
    assert "url(" not in raw
    assert page.counts["article"] == 2  # utterances with errors
    assert page.counts["ins"] == 2  # one in the legend
    for text in ("<script>alert(1)</script>", "<b>bold</b>", "<i>-3", "align:jiwer", "WER difference", "& x"):
        assert text in page.text
    assert "prefers-color-scheme: dark" in raw


def test_files_of_sclite_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref, hyp = (
        put(tmp_path, "r.trn", "the cat sat (s-1)\n(s-2)\n"),
        put(tmp_path, "h", "s-1 the cat\ns-2\n"),
    )
    assert main(["--ref", str(ref), "--hyp", str(hyp), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["word"]["deletions"] == 1
    digits = put(tmp_path, "digits", "u1 1 2.5 3 4\n")
    assert main(["--ref", str(digits), "--hyp", str(digits), "--hyp-format", "text", "--ref-format", "text"]) == 0
    assert ["word", "0.00", "0", "0", "0", "0", "5"] in [row.split() for row in capsys.readouterr().out.split("\n")]
