"""A program in lmplz's place tells what it was asked, and hands out what the real one once made of the same text."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from narspeech.cli import main
from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.lm import by_word
from narspeech.search import kneser_ney, lmplz, ngram_file
from narspeech.search.ngram import NGram
from narspeech.tokenizer import BOS, EOS, NUM_SPECIAL, SPECIAL_PIECES, UNK

KENLM = Path(__file__).with_name("kenlm")
SENTENCES = (KENLM / "corpus.txt").read_text("utf-8").splitlines()[:30]


def put_lmplz(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name, the only one on the PATH."""
    program = folder / "lmplz"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{script}\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def given(folder: Path, monkeypatch: pytest.MonkeyPatch, arpa: Path) -> None:
    """An lmplz that writes that file, and keeps its command line and its text in the folder."""
    put_lmplz(
        folder,
        monkeypatch,
        f"""
arguments = sys.argv[1:]
after = dict(zip(arguments, arguments[1:]))
Path({str(folder / "asked")!r}).write_text(" ".join(arguments), "utf-8")
Path({str(folder / "text")!r}).write_bytes(Path(after["--text"]).read_bytes())
Path(after["--arpa"]).write_bytes(Path({str(arpa)!r}).read_bytes())""",
    )


def assert_alike(theirs: NGram, ours: NGram) -> None:
    assert theirs.pieces == ours.pieces
    assert theirs.counts == ours.counts
    for their, our in zip(theirs.grams, ours.grams, strict=True):
        assert np.array_equal(their.keys, our.keys)
        spoken = np.arange(len(our.keys)) >= (UNK if our is ours.grams[0] else 0)  # a probability of <s> is never used
        assert np.allclose(their.log_probs[spoken], our.log_probs[spoken], atol=3e-5)
        assert np.allclose(their.backoffs, our.backoffs, atol=3e-5)


@pytest.mark.parametrize(("name", "order", "prune"), [("plain", 3, []), ("pruned", 4, [0, 0, 1])])
def test_the_same_model_as_in_numpy(
    name: str, order: int, prune: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(tmp_path, monkeypatch, KENLM / f"{name}.arpa")
    tokens, pieces = by_word(iter(SENTENCES))
    theirs = lmplz.train(tokens.astype(np.int64), pieces, order, prune)
    assert_alike(theirs, kneser_ney.train(tokens.astype(np.int64), pieces, order, prune))
    assert (tmp_path / "text").read_text("utf-8").splitlines() == SENTENCES
    asked = (tmp_path / "asked").read_text("utf-8")
    thresholds = " ".join(map(str, kneser_ney.check_prune(prune, order)))
    assert asked.startswith(f"--order {order} --prune {thresholds} --discount_fallback --skip_symbols --memory 1G ")
    assert not Path(asked.rsplit(" ", 1)[1]).parent.exists()


@pytest.mark.parametrize("suffix", [".arpa", ".nslm"])
def test_the_command(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES), "utf-8")
    out = tmp_path / f"x{suffix}"
    command = ["lm", str(tmp_path / "sentences.txt"), "--out", str(out), "--order", "3", "--prune", "0"]
    assert main(command) == 0
    ours = ngram_file.read(out)
    given(tmp_path, monkeypatch, KENLM / "plain.arpa")
    assert main([*command, "--builder", "kenlm"]) == 0
    theirs = ngram_file.read(out, ours.pieces)
    assert theirs.counts == ours.counts
    assert (tmp_path / "asked").exists()


def test_itself(tmp_path: Path) -> None:
    if shutil.which("lmplz") is None:
        pytest.skip("KenLM's lmplz is not installed")
    tokens, pieces = by_word(iter(SENTENCES))
    for order, prune in ((1, []), (3, []), (4, [0, 0, 1])):
        theirs = lmplz.train(tokens.astype(np.int64), pieces, order, prune)
        assert_alike(theirs, kneser_ney.train(tokens.astype(np.int64), pieces, order, prune))
    with pytest.raises(NarspeechError, match=r"ended with code 1 and said: .*No such file.*none; mend that"):
        lmplz.run([lmplz.find(), "--order", "3", "--text", str(tmp_path / "none"), "--arpa", str(tmp_path / "x")])


def test_spaces_have_a_mark_and_unknown_tokens_are_left_to_it() -> None:
    pieces = (*SPECIAL_PIECES, "a", " ")
    tokens = np.array([BOS, NUM_SPECIAL, NUM_SPECIAL + 1, NUM_SPECIAL, EOS, BOS, EOS, BOS, UNK, NUM_SPECIAL, EOS])
    assert list(lmplz.texts(tokens, pieces)) == ["a ▁ a\n", "\n", "<unk> a\n"]


def test_what_can_go_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, pieces = by_word(iter(SENTENCES))
    ids = tokens.astype(np.int64)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NarspeechError, match=r"expected KenLM's lmplz on the PATH .*, received none: build KenLM"):
        lmplz.train(ids, pieces, 3)
    out = tmp_path / "x.arpa"
    out.write_text("what was there", "utf-8")
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES), "utf-8")
    command = ["lm", str(tmp_path / "sentences.txt"), "--out", str(out), "--order", "3", "--builder", "kenlm"]
    put_lmplz(tmp_path, monkeypatch, 'print("counting\\nmore than I can", file=sys.stderr); sys.exit(3)')
    with pytest.raises(NarspeechError, match="ended with code 3 and said: counting more than I can; mend that"):
        lmplz.train(ids, pieces, 3)
    assert main(command) == 2
    put_lmplz(tmp_path, monkeypatch, 'Path(sys.argv[-1]).write_text("nonsense")')
    with pytest.raises(CheckpointError, match="expected an ARPA language model in"):
        lmplz.train(ids, pieces, 3)
    assert main(command) == 2
    (tmp_path / "lmplz").write_text("#!/no/such/program\n", "utf-8")
    with pytest.raises(NarspeechError, match=r"expected to start .*lmplz, received .*: take --builder numpy"):
        lmplz.train(ids, pieces, 3)
    assert out.read_text("utf-8") == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"lmplz", "sentences.txt", "x.arpa"}
    with pytest.raises(ConfigError, match="order of 1 or more, received 0"):
        lmplz.train(ids, pieces, 0)
    with pytest.raises(ConfigError, match="expected text to learn"):
        lmplz.train(ids[:0], pieces, 3)


@pytest.mark.skipif(os.name == "nt", reason="signals end a process there in another way")
def test_a_killed_lmplz_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_lmplz(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    tokens, pieces = by_word(iter(SENTENCES))
    with pytest.raises(NarspeechError, match="ended with code -9 and said: nothing"):
        lmplz.train(tokens.astype(np.int64), pieces, 3)
