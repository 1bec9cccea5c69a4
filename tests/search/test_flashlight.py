"""Flashlight's search finds what ours does; what does not need it is tested without it."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narspeech.batch import Encoded, Padded
from narspeech.cli import main
from narspeech.decoders.base import DecodeOptions
from narspeech.decoders.ctc import BEAM, CTCDecoder
from narspeech.errors import CheckpointError, NarspeechError
from narspeech.ops.ctc_beam import prefix_beam_search
from narspeech.ops.scorer import Sum
from narspeech.refine import decode
from narspeech.result import Hypothesis
from narspeech.search import flashlight, ngram_file
from narspeech.search.flashlight import (
    MAGIC,
    Flashlight,
    Library,
    begun,
    in_order,
    is_binary,
    load_kenlm,
    load_library,
    read_paths,
    read_vocabulary,
)
from narspeech.search.kneser_ney import train
from narspeech.search.ngram import NGramScorer
from narspeech.tokenizer import BLANK, BOS, EOS, PAD, SPECIAL_PIECES, UNK
from narspeech.transcriber import Transcriber, transcribe
from tests import fakes

KENLM = Path(__file__).with_name("kenlm")
PIECES = fakes.TOKENIZER.pieces
LENGTHS = [4, 0, 4, 1, 3]
needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="the lm extra is not installed: pip install narspeech[lm]"
)


def posteriors(lengths: Sequence[int] = LENGTHS) -> Padded:
    """Over the blank, two letters and the space, which last for two frames; what stands beyond the lengths is
    nonsense."""
    spoken = [BLANK, *fakes.TOKENIZER.encode("ab ")]
    logits = torch.full((len(lengths), max(lengths), len(PIECES)), -1e4)
    logits[..., spoken] = (
        3 * torch.randn(len(lengths), max(lengths) // 2 + 1, len(spoken)).repeat_interleave(2, 1)[:, : max(lengths)]
    )
    logits += 0.1 * torch.randn(logits.shape)  # no ties
    data = logits.log_softmax(-1)
    for row, length in enumerate(lengths):
        data[row, length:] = math.nan
    return Padded(data, torch.tensor(lengths))


def encoded(log_probs: Padded) -> Encoded:
    states = Padded(torch.zeros(*log_probs.data.shape[:2], 4), log_probs.lengths)
    return Encoded(states, states, ctc=log_probs)


@pytest.fixture(scope="module")
def lm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language of spaces and letters with habits."""
    draw = random.Random(1)
    texts = [" ".join("".join(draw.choices("abcd", [6, 3, 2, 1], k=3)) for _ in range(4)) for _ in range(60)]
    tokens = [token for text in texts for token in (BOS, *fakes.TOKENIZER.encode(text), EOS)]
    path = tmp_path_factory.mktemp("lm") / "lm.nslm"
    ngram_file.write(path, train(np.array(tokens), PIECES, 3))
    return path


def naive(log_probs: Tensor, path: list[int]) -> tuple[list[int], list[float]]:
    """Tokens and scores of a path, a frame at a time."""
    tokens, scores = [], list[float]()
    last = BLANK
    for frame, label in zip(log_probs.tolist(), path, strict=True):
        if label not in (BLANK, last):
            tokens.append(label)
            scores.append(-math.inf)
        if tokens:
            scores[-1] = max(scores[-1], frame[tokens[-1]])
        last = label
    return tokens, scores


def test_paths_are_read_as_a_frame_at_a_time() -> None:
    for length in (0, 1, 12):
        log_probs = torch.randn(length, 9).log_softmax(-1)
        paths = torch.tensor([BLANK, 6, 7, 8])[torch.randint(4, (20, length))]
        texts = read_paths(log_probs, paths)
        for row, path in enumerate(paths.tolist()):
            tokens, scores = naive(log_probs, path)
            assert tokens == [label for label, _ in groupby(path) if label != BLANK]
            assert texts.tokens.unpack()[row].tolist() == tokens
            assert texts.scores[row, : len(tokens)].tolist() == pytest.approx(scores)
            assert not texts.scores[row, len(tokens) :].any()


def test_a_sure_token_earns_one_bonus() -> None:
    path = torch.tensor([BLANK, 6, 6, 6, 7, BLANK, 7, 7])
    earned = begun(torch.nn.functional.one_hot(path, 9).float().log(), 2.0)
    assert not earned[:, BLANK].any()
    assert [round(earned[frame, label].item(), 5) for frame, label in enumerate(path.tolist())] == [
        *(0, 2, 0, 0),
        *(2, 0, 2, 0),
    ]


def test_the_order_is_that_of_our_own_search() -> None:
    log_probs = posteriors([5])
    found = prefix_beam_search(log_probs, 100)
    extra = torch.randn(40)
    tokens, scores = Padded(found.tokens[0, :40], found.lengths[0, :40]), found.scores[0, :40]
    texts = in_order(log_probs.data[0], flashlight.Texts(tokens, scores), extra)
    order = (found.totals[0, :40] + extra).argsort(descending=True)
    assert torch.equal(texts.tokens.data, tokens.data[order])
    assert torch.equal(texts.scores, scores[order])
    assert order.tolist() != list(range(40))


class FakeDecoder:
    """Finds two paths in every utterance, the second of which the language model prefers."""

    asked: tuple[Any, ...] = ()

    def __init__(self, *asked: Any) -> None:
        FakeDecoder.asked = asked

    def decode(self, _address: int, frames: int, size: int) -> list[SimpleNamespace]:
        assert size == len(PIECES)
        first, second = [6] + [BLANK] * (frames - 1), [7] * frames
        return [
            SimpleNamespace(tokens=[PAD, *path, PAD], lmScore=score) for path, score in ((first, -500.0), (second, 0.0))
        ]


def test_what_flashlight_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        ZeroLM=lambda: "no model",
        CriterionType=SimpleNamespace(CTC="ctc"),
        LexiconFreeDecoderOptions=lambda **settings: settings,
        LexiconFreeDecoder=FakeDecoder,
    )
    monkeypatch.setattr(flashlight, "load_library", lambda: Library(module, None, None))
    for beam in (1, 5):
        found = decode(
            Flashlight(None, PIECES), encoded(posteriors()), DecodeOptions(beam=beam, lm_weight=0.5, token_bonus=2.0)
        )
        settings, lm, silence, blank, transitions = FakeDecoder.asked
        assert settings == {
            "beam_size": BEAM if beam == 1 else beam,
            "beam_size_token": 17,
            "beam_threshold": 50.0,
            "lm_weight": pytest.approx(0.5 * math.log(10)),
            "sil_score": 0.0,
            "log_add": True,
            "criterion_type": "ctc",
        }
        assert (lm, silence, blank, transitions) == ("no model", PAD, BLANK, [])
        assert [h.tokens for h in found] == [(7,), (), (7,), (7,), (7,)]
        assert [len(h.alternatives) for h in found] == [1, 0, 1, 1, 1]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "flashlight", None)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    transcriber = Transcriber(fakes.tiny_model())
    message = (
        r'expected flashlight-text with KenLM .*, received an environment without it: pip install "narspeech\[lm\]"'
    )
    with pytest.raises(NarspeechError, match=message):
        transcriber.hearing(decoder="flashlight")
    with pytest.raises(
        NarspeechError, match="no hotwords with the decoder flashlight, received 'cab': take the decode"
    ):
        transcriber.hearing(decoder="flashlight", hotwords=["cab"])
    wav = str(fakes.write_wav(tmp_path / "a.wav", fakes.sing("ab")))
    assert main(["transcribe", wav, "--decoder", "flashlight"]) == 2
    assert "pip install" in capfd.readouterr().err
    assert transcriber.hearing(decoder="ctc").head == "ctc"


def test_a_language_model_of_other_tokens_is_told(lm_file: Path, tmp_path: Path) -> None:
    words = read_vocabulary(KENLM / "plain.arpa")
    assert set(words) >= {"<s>", "</s>", "<unk>", "garden"}
    assert len(set(words)) == len(list(words))
    # lmplz gives </s> to every model and build_binary does not write it down again where it is a trie.
    assert {*read_vocabulary(KENLM / "plain.bin"), "</s>"} == set(words)
    assert [is_binary(KENLM / name) for name in ("plain.bin", "plain.arpa", "none")] == [True, False, False]
    library = Library(None, None, None)
    for name in ("plain.arpa", "plain.bin"):
        with pytest.raises(CheckpointError, match=rf"{name}: expected tokens of the model .*, received '\w+': train"):
            load_kenlm(library, KENLM / name, PIECES)
    with pytest.raises(CheckpointError, match=r"expected a language model of the recogniser's"):
        load_kenlm(library, lm_file, (*SPECIAL_PIECES, "a"))
    for damaged in (b"", b"<unk>\0a\0b"):
        (tmp_path / "x.bin").write_bytes(MAGIC + damaged)
        with pytest.raises(CheckpointError, match="expected the words of a KenLM file at the end"):
            load_kenlm(library, tmp_path / "x.bin", PIECES)
    (tmp_path / "x.arpa").write_text("\\data\\\n\\1-grams:\nnonsense\n", "utf-8")
    with pytest.raises(CheckpointError, match=r"x\.arpa: expected a logarithm and 1 words"):
        load_kenlm(library, tmp_path / "x.arpa", PIECES)
    (tmp_path / "x.arpa").write_bytes(b"\\1-grams:\n-1\t\xff\n")
    with pytest.raises(CheckpointError, match="expected an ARPA language model in"):
        load_kenlm(library, tmp_path / "x.arpa", PIECES)


@needs_flashlight
def test_what_kenlm_cannot_read_is_told(tmp_path: Path) -> None:
    library = load_library()
    (tmp_path / "x.arpa").write_text("\\1-grams:\n-1\ta\n", "utf-8")
    with pytest.raises(CheckpointError, match=r"expected a language model that KenLM reads in .*, received: "):
        load_kenlm(library, tmp_path / "x.arpa", PIECES)


@needs_flashlight
@pytest.mark.parametrize("name", ["plain.arpa", "plain.bin"])
def test_kenlm_reads_its_own_files(name: str) -> None:
    words = [word for word in read_vocabulary(KENLM / "plain.arpa") if word not in ("<s>", "</s>", "<unk>")]
    pieces = (*SPECIAL_PIECES, *words)
    ours = NGramScorer(ngram_file.read(KENLM / "plain.arpa", pieces))
    theirs = load_kenlm(load_library(), KENLM / name, pieces)
    draw = random.Random(1)
    for _ in range(20):
        state, own = theirs.start(False), ours.start(torch.device("cpu"))[None]
        for token in draw.choices(range(UNK + 1, len(pieces)), k=5):
            state, score = theirs.score(state, token)
            expected = ours(own, torch.tensor([[token]])).item()
            assert score * math.log(10) == pytest.approx(expected, abs=1e-4)
            own = ours.advance(own, torch.tensor([token]))
        assert theirs.finish(state)[1] * math.log(10) == pytest.approx(
            ours(own, torch.tensor([[EOS]])).item(), abs=1e-4
        )


@needs_flashlight
@pytest.mark.parametrize("suffix", [".nslm", ".arpa", None])
def test_a_wide_beam_finds_what_ours_does(suffix: str | None, lm_file: Path, tmp_path: Path) -> None:
    log_probs, options, scorer = posteriors(), DecodeOptions(beam=250, lm_weight=0.7, token_bonus=1.3), None
    path = None
    if suffix is None:
        options = options.but(token_bonus=0.0)
    else:
        model = ngram_file.read(lm_file, PIECES)
        path = tmp_path / f"lm{suffix}"
        ngram_file.write(path, model)
        scorer = Sum([(NGramScorer(model), 0.7)])
    ours = decode(CTCDecoder(), encoded(log_probs), options, scorer)
    theirs = decode(Flashlight(path, PIECES), encoded(log_probs), options)
    assert any(len(h.tokens) > 1 for h in ours)
    for our, their in zip(ours, theirs, strict=True):
        assert their.tokens == our.tokens
        others = [h.tokens for h in their.alternatives][:5]  # ours also has texts of letters that the head never writes
        assert others == [h.tokens for h in our.alternatives][: len(others)]


@needs_flashlight
def test_a_row_does_not_depend_on_the_others(lm_file: Path) -> None:
    log_probs, options = posteriors(), DecodeOptions(lm_weight=0.7)
    search = Flashlight(lm_file, PIECES)
    together = decode(search, encoded(log_probs), options)

    def plain(h: Hypothesis) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        return [(one.tokens, one.scores) for one in (h, *h.alternatives)]

    for row, length in enumerate(LENGTHS):
        alone = Padded(log_probs.data[row : row + 1, :length], log_probs.lengths[row : row + 1])
        assert plain(decode(search, encoded(alone), options)[0]) == plain(together[row])


@needs_flashlight
def test_posteriors_that_are_no_numbers_do_no_harm(lm_file: Path) -> None:
    log_probs = torch.full((1, 50, len(PIECES)), math.nan)
    log_probs[0, 25:] = -math.inf
    found = decode(Flashlight(lm_file, PIECES), encoded(Padded(log_probs, torch.tensor([50]))), DecodeOptions())
    assert len(found) == 1


@needs_flashlight
def test_transcribe(lm_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = fakes.tiny_model()
    sounds = [0.1 * samples for samples in fakes.noise([2500, 1500, 2000]).unpack()]
    settings: dict[str, Any] = {"rate": fakes.RATE, "model": model, "lm": lm_file, "beam": 100}
    ours = transcribe(sounds, decoder="ctc", **settings)
    theirs = transcribe(sounds, decoder="flashlight", **settings)
    for our, their in zip(ours, theirs, strict=True):
        assert their.text == our.text
        # Scores are those of flashlight's likeliest path, which ours does not keep, and so is the confidence.
        assert [(word.start, word.end) for word in their.words] == [(word.start, word.end) for word in our.words]
        assert all(0 < word.confidence <= 1 for word in their.words)
    wav = str(fakes.write_wav(tmp_path / "a.wav", sounds[0]))
    (tmp_path / "x.bin").write_bytes(MAGIC)
    assert main(["transcribe", wav, "--decoder", "flashlight", "--lm", str(tmp_path / "x.bin")]) == 3
    assert main(["transcribe", wav, "--decoder", "flashlight", "--hotword", "cab"]) == 2
    assert "received 'cab': take the decoder ctc" in capfd.readouterr().err
