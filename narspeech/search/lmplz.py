"""N-gram models by KenLM's lmplz (Heafield et al. 2013), a program that sorts on disk, for those who have it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from narspeech.errors import ConfigError, NarspeechError
from narspeech.search.arpa import names, read_arpa
from narspeech.search.kneser_ney import check_prune
from narspeech.search.ngram import Ints, NGram
from narspeech.tokenizer import BOS, EOS

# lmplz would take four fifths of the machine's memory; what does not fit here is sorted on disk.
MEMORY = "1G"


def find() -> str:
    """The program. Raises NarspeechError where there is none on the PATH."""
    program = shutil.which("lmplz")
    if program is None:
        raise NarspeechError(
            "expected KenLM's lmplz on the PATH for --builder kenlm, received none: build KenLM and add its build/bin "
            "to the PATH, or take --builder numpy"
        )
    return program


def train(tokens: Ints, pieces: Sequence[str], order: int, prune: Sequence[int] = ()) -> NGram:
    """What `kneser_ney.train` makes of the same, by lmplz; unknown tokens are left out of the text, for it takes none.

    Raises ConfigError, NarspeechError where there is no lmplz or it fails, and CheckpointError where what it wrote is
    no model.
    """
    thresholds = check_prune(prune, order)
    if not len(tokens):
        raise ConfigError("expected text to learn a language model from, received none: check the files")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "text").open("w", encoding="utf-8") as file:
            file.writelines(texts(tokens, pieces))
        command = [find(), "--order", str(order), "--prune", *map(str, thresholds), "--discount_fallback"]
        command += ["--skip_symbols", "--memory", MEMORY, "--temp_prefix", f"{folder}/"]
        run([*command, "--text", str(folder / "text"), "--arpa", str(folder / "arpa")])
        return read_arpa(folder / "arpa", pieces)


def texts(tokens: Ints, pieces: Sequence[str]) -> Iterator[str]:
    """The lines of all texts, each of which begins with BOS and ends with EOS in one array of ids."""
    words = names(pieces)
    for text in np.split(tokens, np.flatnonzero(tokens == EOS)[:-1] + 1):
        yield " ".join(words[token] for token in text[(text != BOS) & (text != EOS)].tolist()) + "\n"


def run(command: Sequence[str]) -> None:
    """Raises NarspeechError where it cannot be started, or fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise NarspeechError(f"expected to start {command[0]}, received {error}: take --builder numpy") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:] or "nothing"
        raise NarspeechError(
            f"expected lmplz to train a language model, but it ended with code {done.returncode} and said: {said}; "
            "mend that, or take --builder numpy"
        )
