from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from narspeech.decoders.base import DecodeOptions
from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.refine import decode
from narspeech.search import ngram_file
from narspeech.search.fusion import NAME, find_lm, fuse, load_lm
from narspeech.search.kneser_ney import train
from narspeech.tokenizer import BOS, EOS
from narspeech.transcriber import Transcriber, transcribe
from tests import fakes


@pytest.fixture(scope="module")
def lm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language of one word."""
    path = tmp_path_factory.mktemp("lm") / NAME
    text = [BOS, *fakes.TOKENIZER.encode("dad dad dad"), EOS]
    ngram_file.write(path, train(np.array(text * 20), fakes.TOKENIZER.pieces, 4))
    return path


def test_both_count_by_their_weights(lm_file: Path) -> None:
    model, options = fakes.tiny_model(), DecodeOptions(lm_weight=0.25, hotword_weight=3.0)
    lm = load_lm(lm_file, model)
    both = fuse(lm, ["cab"], model, options)
    assert both is not None
    cpu = torch.device("cpu")
    candidates = torch.arange(model.tokenizer.size)[None]
    expected = 0.25 * lm(lm.start(cpu)[None], candidates)
    expected[0, fakes.TOKENIZER.encode("c")[0]] += 3.0
    assert torch.allclose(both(both.start(cpu)[None], candidates), expected)
    assert fuse(None, [], model, options) is None


def test_bundled_is_what_lies_beside_the_weights(lm_file: Path, tmp_path: Path) -> None:
    assert find_lm("bundled", lm_file.parent) == lm_file
    for folder in (tmp_path, None):
        with pytest.raises(CheckpointError, match=r"expected lm\.nslm in the model's folder"):
            find_lm("bundled", folder)
    with pytest.raises(CheckpointError, match=r"x\.nslm, received no such file"):
        find_lm(tmp_path / "x.nslm", None)


def test_transcribe_hears_them(lm_file: Path) -> None:
    model = fakes.tiny_model()
    sound = 0.1 * fakes.noise([8000]).data[0]
    plain = transcribe(sound, rate=fakes.RATE, model=model, decoder="ctc").text
    for decoder in ("ctc", None):
        told = transcribe(sound, rate=fakes.RATE, model=model, decoder=decoder, lm=lm_file, lm_weight=5.0).text
        assert told.count("d") > plain.count("d")
    favoured = transcribe(sound, rate=fakes.RATE, model=model, decoder="ctc", hotwords=["cab"], beam=32).text
    assert favoured.split().count("cab") >= plain.split().count("cab")
    with pytest.raises(NarspeechError, match="expected hotwords in the characters that the model writes"):
        transcribe(sound, rate=fakes.RATE, model=model, hotwords=["Cab"])


def test_the_bonus_a_token_goes_with_a_language_model(lm_file: Path) -> None:
    model = fakes.tiny_model()
    options = DecodeOptions(beam=4, token_bonus=3.0)
    for lm, bonus in ((None, 0.0), (lm_file, 3.0)):
        assert Transcriber(model, lm=lm).hearing(options, hotwords=["cab"]).options.token_bonus == bonus


def test_a_family_that_cannot_hear_a_scorer_says_so() -> None:
    model = fakes.tiny_model("align_refine")
    encoded = model.encode(fakes.noise([8000]))
    with pytest.raises(ConfigError, match="received AlignRefine: decode with ctc"):
        decode(model.decoder, encoded, DecodeOptions(), fakes.Favourite(6, 1.0))
