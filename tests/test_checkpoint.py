"""A checkpoint gives back exactly what was saved, or one clear sentence."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import narspeech
from narspeech import checkpoint
from narspeech.decoders.base import DecodeOptions
from narspeech.errors import CheckpointError, NarspeechError
from narspeech.model import DECODERS
from narspeech.tokenizer import CharacterTokenizer
from tests import fakes


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    checkpoint.save(folder, fakes.tiny_model())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(folder: Path, *words: str) -> str:
    """The one sentence that `load` answers with."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    assert "expected" in message
    assert "received" in message
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("kind", list(DECODERS))
def test_round_trip_is_exact(kind: str, tmp_path: Path) -> None:
    decoding = DecodeOptions(steps=3, threshold=0.5)
    model = fakes.tiny_model(kind, decoding=decoding)
    checkpoint.save(tmp_path / "new" / "model", model)
    again = narspeech.load(tmp_path / "new" / "model")
    assert again.config == model.config
    assert again.tokenizer == model.tokenizer
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # What is not stored is made anew.
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), again.buffers(), strict=True))


def test_half_precision_halves_the_file(saved: Path, tmp_path: Path) -> None:
    model = checkpoint.load(saved)
    checkpoint.save(tmp_path, model, dtype=torch.float16)
    full, half = (path.stat().st_size for path in (saved / checkpoint.WEIGHTS, tmp_path / checkpoint.WEIGHTS))
    assert half < 0.65 * full
    again = checkpoint.load(tmp_path)
    for name, x in again.state_dict().items():
        assert x.dtype == model.state_dict()[name].dtype
        expected = model.state_dict()[name]
        assert torch.equal(x, expected.half().float() if x.is_floating_point() else expected)
    assert all(p.dtype == torch.float32 for p in model.parameters())  # the one in memory stays whole


def test_saving_again_replaces(folder: Path) -> None:
    other = fakes.tiny_model("ctc", seed=1)
    checkpoint.save(folder, other)
    assert checkpoint.load(folder).config.decoder.kind == "ctc"
    assert not list(folder.glob("*.tmp"))


def test_what_a_folder_holds(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    content = json.loads((saved / "config.json").read_text())
    assert content["format"] == 1
    assert {part: content["model"][part]["kind"] for part in ("frontend", "encoder", "decoder")} == {
        "frontend": "fbank",
        "encoder": "conformer",
        "decoder": "mask_ctc",
    }


@pytest.mark.parametrize("make", [lambda path: path / "nowhere", lambda path: path, str])
def test_missing_folders(make: Callable[[Path], Path], tmp_path: Path) -> None:
    refused(make(tmp_path), "config.json", str(tmp_path))


def test_a_file_is_no_folder(saved: Path) -> None:
    refused(saved / "config.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{", b"[1]", b'{"format": 2, "model": {}}', b"[" * 100_000])
def test_missing_and_damaged_files(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    refused(folder)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused(folder, "safetensors")


def test_a_header_that_lies(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:])
    refused(folder, "safetensors")


def test_wrong_format(folder: Path) -> None:
    edit(folder, lambda content: content.update(format=99))
    refused(folder, "format 1", "99")


def test_unknown_keys(folder: Path) -> None:
    edit(folder, lambda content: content["model"]["encoder"].update(colour="red"))
    refused(folder, "config.json", "colour")


@pytest.mark.parametrize("part", ["frontend", "encoder", "decoder"])
def test_unknown_kinds(folder: Path, part: str) -> None:
    edit(folder, lambda content: content["model"][part].update(kind="posix.system"))
    with pytest.raises(NarspeechError, match="posix"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "settings", [{"depth": "two"}, {"width": 17}, {"width": -16}, {"kernel": 4}, {"taps": [9]}, {"subsampling": "x"}]
)
def test_models_that_cannot_be(folder: Path, settings: dict[str, Any]) -> None:
    edit(folder, lambda content: content["model"]["encoder"].update(settings))
    refused(folder, "config.json")


def test_missing_and_unknown_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = checkpoint.read_weights(path)
    del weights["ctc.output.bias"]
    path.write_bytes(checkpoint.weights_to_bytes(weights))
    refused(folder, "ctc.output.bias")
    weights["ctc.output.prejudice"] = torch.zeros(3)
    path.write_bytes(checkpoint.weights_to_bytes(weights))
    refused(folder, "ctc.output.bias", "ctc.output.prejudice")
    weights["ctc.output.bias"] = torch.zeros(fakes.TOKENIZER.size)
    path.write_bytes(checkpoint.weights_to_bytes(weights))
    refused(folder, "ctc.output.prejudice")


def test_wrong_shapes(folder: Path) -> None:
    edit(folder, lambda content: content["model"]["decoder"].update(feed_forward=48))
    refused(folder, "decoder.stack.layers.0.feed_forward", "(48,)", "(32,)")


def test_another_tokenizer(folder: Path) -> None:
    CharacterTokenizer("abc").save(folder)
    refused(folder, "(9", "(11")


def test_initialise_copies_what_fits(saved: Path) -> None:
    config = fakes.model_config("ctc")
    deeper = replace(config.encoder, depth=3, feed_forward=48)
    model = fakes.tiny_model("ctc", seed=7, encoder=deeper)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    source = checkpoint.read_weights(saved / checkpoint.WEIGHTS)
    kept = checkpoint.initialise(model, saved)
    for name, x in model.state_dict().items():
        fits = name in source and source[name].shape == x.shape
        assert torch.equal(x, source[name] if fits else before[name])
        assert (name in kept) == (not fits)
    assert "encoder.layers.0.feed_in.inner.weight" in kept  # another shape
    assert "encoder.layers.2.attention.qkv.weight" in kept  # another depth
    assert "ctc.output.weight" not in kept


def test_initialise_leaves_what_another_vocabulary_means(folder: Path) -> None:
    CharacterTokenizer("ABCD ").save(folder)  # as many letters, but others
    model = fakes.tiny_model("mask_ctc", seed=7)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    kept = checkpoint.initialise(model, folder)
    assert {name.rpartition(".")[0] for name in kept} == {"ctc.output", "decoder.tokens", "decoder.tokens.embedding"}
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items() if name in kept)


def test_initialise_takes_the_parts_that_are_named(saved: Path) -> None:
    model = fakes.tiny_model("mask_ctc", seed=7)
    kept = checkpoint.initialise(model, saved, ["decoder", "ctc"])
    assert {name.partition(".")[0] for name in kept} == {"frontend", "encoder"}
    with pytest.raises(CheckpointError, match="share weights of decoder with the model"):
        checkpoint.initialise(fakes.tiny_model("ctc"), saved, ["decoder"])


def test_initialise_wants_something_that_fits(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(checkpoint.weights_to_bytes({"x": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match="none that fit"):
        checkpoint.initialise(fakes.tiny_model(), folder)
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.initialise(fakes.tiny_model(), tmp_path / "nowhere")


def test_no_pickle_anywhere() -> None:
    """Neither imported nor reached through torch.load and torch.save."""
    package = Path(narspeech.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            banned = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "torch.load", "torch.save"}
            found += [f"{path.name}: {name}" for name in names if name in banned]
    assert found == []
