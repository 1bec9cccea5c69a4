"""Sequence-level distillation (Kim & Rush 2016): a teacher writes the training texts anew, for students to learn.

What an autoregressive teacher writes varies less than what people wrote: a student that writes all its tokens at once
is less often torn between two good sentences.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from narspeech.checkpoint import FORMAT, WEIGHTS, load, write_json
from narspeech.config import to_dict
from narspeech.errors import ConfigError
from narspeech.files import write_atomic
from narspeech.train.trainer import TrainingSet
from narspeech.train.validation import decode_all

MANIFEST = "manifest.json"


class Written(NamedTuple):
    """What the teacher wrote for one example, and the mean log-probability of its tokens."""

    text: str
    score: float


class Teacher:
    """A checkpoint folder that writes with a beam; what is not searched by a beam is decoded as usual."""

    def __init__(self, path: Path, *, beam: int, device: torch.device) -> None:
        self.path, self.model = path, load(path, device=device)
        self.options = replace(self.model.config.decoding, beam=beam)

    def distill(
        self,
        folder: Path,
        part: str,
        ids: Sequence[str],
        data: TrainingSet,
        together: float,
        write: Callable[[list[str]], None],
    ) -> None:
        """Write a text for every example of `data` and give them to `write`, in order; a part that is done stays.

        folder/manifest.json then tells of teacher, settings and scores. A killed distillation goes on where it was:
        what is written is kept in folder/<part>.partial meanwhile. Raises ConfigError where another teacher, or this
        one with other settings, has written into the folder.
        """
        manifest = self._claim(folder)
        if part in manifest["parts"]:
            return
        partial = folder / f"{part}.partial"
        done = read_partial(partial)
        left = [index for index, name in enumerate(ids) if name not in done]
        with partial.open("a", encoding="utf-8") as file:
            for index, hypothesis in decode_all(self.model, data, left, together, self.options):
                score = sum(hypothesis.scores) / max(len(hypothesis.scores), 1)
                written = Written(self.model.tokenizer.decode(hypothesis.tokens), round(score, 4))
                done[ids[index]] = written
                file.write(json.dumps([ids[index], *written], ensure_ascii=False) + "\n")
        write([done[name].text for name in ids])
        scores = sorted(done[name].score for name in ids)
        manifest["parts"][part] = {
            "examples": len(ids),
            "empty": sum(not done[name].text for name in ids),
            "mean_score": round(sum(scores) / max(len(scores), 1), 4),
            "median_score": scores[len(scores) // 2] if scores else 0.0,
        }
        write_json(folder / MANIFEST, manifest)
        partial.unlink()

    def _claim(self, folder: Path) -> dict[str, Any]:
        """The folder's manifest, made where there is none."""
        path = folder / MANIFEST
        digest = hashlib.sha256((self.path / WEIGHTS).read_bytes()).hexdigest()
        own = {
            "format": FORMAT,
            "teacher": {"path": os.fspath(self.path.absolute()), "sha256": digest},
            "decoding": to_dict(self.options),
        }
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {**own, "parts": {}})
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = manifest.get("teacher", {}).get("sha256") == digest and manifest.get("decoding") == own["decoding"]
        if manifest.get("format") != FORMAT or not same:
            raise ConfigError(
                f"expected {folder} to be written by the teacher {self.path} with beam {self.options.beam}, received "
                "texts of another or with other settings: remove the folder, or keep teacher and settings"
            )
        return manifest


def check_distilled(folder: Path) -> None:
    """Raise ConfigError where no teacher has written into `folder`."""
    if not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"expected the distilled/ of a teacher's run for --distilled, received {folder} without {MANIFEST}: "
            "correct the path, or run the teacher's stage distill first"
        )


def read_partial(path: Path) -> dict[str, Written]:
    """What an interrupted distillation has written, by id; a last line cut short by a kill is removed."""
    # Bytes, for the cut may go through a character.
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    write_atomic(path, b"".join(line + b"\n" for line in lines))
    entries = (json.loads(line) for line in lines)
    return {name: Written(text, score) for name, text, score in entries}
