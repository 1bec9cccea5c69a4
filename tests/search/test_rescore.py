from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from narspeech import checkpoint
from narspeech.batch import Encoded, Padded
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.errors import ConfigError
from narspeech.model import DECODERS, Model
from narspeech.result import Hypothesis
from narspeech.search.rescore import decode_with, find_teacher, rescore
from narspeech.tokenizer import CharacterTokenizer
from tests import fakes

Scorer = Callable[[int, list[int]], float]


class Teacher(Decoder):
    """Scores a text by the number of letters that its source holds, and by itself."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer, self.calls = scorer, 0

    def prepare(self, encoded: Encoded) -> Memory:
        return Memory(encoded.states.mask[:, None, None], encoded.states, encoded.inputs)

    def score(self, tokens: Padded, memory: Memory) -> Tensor:
        self.calls += 1
        rows = zip(memory.inputs.lengths.tolist(), tokens.unpack(), strict=True)
        return torch.tensor([self.scorer(length, row.tolist()) for length, row in rows])


def teacher(scorer: Scorer) -> Model:
    model = fakes.tiny_model("ctc", "text")
    model.decoder = Teacher(scorer)
    return model


def hypothesis(*rows: list[int]) -> Hypothesis:
    """The first of the rows, and the others as its alternatives; scores tell which is which."""
    first, *others = (
        Hypothesis(tokens=tuple(row), scores=(-float(n),) * len(row), steps=n) for n, row in enumerate(rows)
    )
    return replace(first, alternatives=tuple(others))


def order(found: Hypothesis) -> list[int]:
    return [h.steps for h in (found, *found.alternatives)]


def test_the_teachers_best_comes_first_and_the_others_follow() -> None:
    # The teacher of a source of n letters wants n tokens.
    model = teacher(lambda length, tokens: -abs(len(tokens) - length))
    source = fakes.nonsense([3, 1, 2, 0])
    given = [
        hypothesis([6], [6, 7], [6, 7, 8], []),
        hypothesis([6, 7, 8], [9], [6, 7]),
        hypothesis([6]),
        hypothesis([], [6], []),
    ]
    found = rescore(given, model, source)
    assert [order(h) for h in found] == [[2, 1, 0, 3], [1, 2, 0], [0], [0, 2, 1]]
    assert found[0].tokens == (6, 7, 8)
    assert found[0].scores == (-2.0,) * 3
    assert all(not other.alternatives for h in found for other in h.alternatives)
    assert order(given[0]) == [0, 1, 2, 3]  # which are left as they were


def test_the_length_penalty() -> None:
    model = teacher(lambda _, tokens: -1.0 * len(tokens) - 1.5)
    given = [hypothesis([6, 7, 8], [6], [])]
    assert order(rescore(given, model, fakes.nonsense([2]), length_penalty=0.0)[0]) == [2, 1, 0]
    # -4.5 / 4, -2.5 / 2, -1.5 / 1
    assert order(rescore(given, model, fakes.nonsense([2]))[0]) == [0, 1, 2]


def test_no_work_where_there_is_no_choice() -> None:
    model = teacher(lambda *_: 0.0)
    given = [hypothesis([6]), hypothesis([])]
    assert rescore(given, model, fakes.nonsense([2, 3])) == given
    assert isinstance(model.decoder, Teacher)
    assert model.decoder.calls == 0


def test_equals_keep_their_order() -> None:
    given = [hypothesis([6], [7], [8])]
    assert rescore(given, teacher(lambda *_: -1.0), fakes.nonsense([2])) == given


def test_a_teacher_reads_and_writes_what_the_model_does_and_scores_it(tmp_path: Path) -> None:
    student, found = fakes.tiny_model("nat", "text"), fakes.tiny_model("ar", "text")
    assert find_teacher(found.train(), student) is found
    assert not found.training
    checkpoint.save(tmp_path, found)
    assert find_teacher(tmp_path, student).tokenizer.pieces == student.tokenizer.pieces
    find_teacher(fakes.tiny_model("dag", "text"), student)
    with pytest.raises(ConfigError, match=r"what the model reads \(text\), received one of sound at 8000 Hz"):
        find_teacher(fakes.tiny_model("ar"), student)
    with pytest.raises(ConfigError, match="scores a given text, received cmlm: take an autoregressive one"):
        find_teacher(fakes.tiny_model("cmlm", "text"), student)
    other = Model(found.config, CharacterTokenizer("abcde"))
    with pytest.raises(ConfigError, match="expected a teacher with the model's tokenizer"):
        find_teacher(other, student)


def test_where_there_is_no_choice_a_teacher_is_of_no_use() -> None:
    student, found = fakes.tiny_model("cmlm", "text"), fakes.tiny_model("ar", "text")
    source = fakes.nonsense([9, 4, 12, 6, 1])
    several = DecodeOptions(steps=2, candidates=5)
    chosen = decode_with(found, student, source, several, None)
    assert chosen == rescore(student.decode(source, several), found, source)
    assert decode_with(None, student, source, several, None) == student.decode(source, several) != chosen
    cases: list[tuple[DecodeOptions | None, Literal["ctc"] | None, str]] = [
        (None, None, "several candidates for the teacher to choose from, received one: raise candidates"),
        (DecodeOptions(beam=5), None, "received one: raise candidates"),  # of a family without a search
        (several, "ctc", "a teacher or a decoder beside the model's own, received both"),
    ]
    for options, decoder, message in cases:
        with pytest.raises(ConfigError, match=message):
            decode_with(found, student, source, options, decoder)
        decode_with(None, student, source, options, decoder)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_family_tells_by_which_settings_it_has_a_choice(kind: str) -> None:
    model, source = fakes.tiny_model(kind, "text"), fakes.nonsense([9, 4])
    for name in ("beam", "candidates"):
        found = model.decode(source, DecodeOptions(steps=1).but(**{name: 3}))
        assert any(hypothesis.alternatives for hypothesis in found) == (name in model.decoder.several)
    if not model.decoder.several:
        with pytest.raises(ConfigError, match=f"received {kind}, which has one: leave the teacher out"):
            decode_with(fakes.tiny_model("ar", "text"), model, source, DecodeOptions(beam=3, candidates=3), None)


def test_the_candidates_of_a_model_that_copies() -> None:
    student, source = fakes.tiny_model("nat", "text"), fakes.nonsense([9, 4, 0])
    given = student.decode(source, DecodeOptions(candidates=4))
    wanted = [h.alternatives[-1].tokens for h in given]
    found = rescore(given, teacher(lambda _, tokens: float(tuple(tokens) in wanted)), source)
    assert [h.tokens for h in found] == wanted
    assert [len(h.alternatives) for h in found] == [3, 3, 3]


def test_what_does_not_fit_is_refused() -> None:
    model = teacher(lambda *_: 0.0)
    with pytest.raises(ValueError, match="each of the 2 rows of the source, received 1"):
        rescore([hypothesis([6], [7])], model, fakes.nonsense([2, 3]))
    with pytest.raises(ValueError, match=f"vocabulary of {fakes.TOKENIZER.size}, received token 99"):
        rescore([hypothesis([6], [99])], model, fakes.nonsense([2]))
    with pytest.raises(ConfigError, match="autoregressive"):
        rescore([hypothesis([6], [7])], fakes.tiny_model("ctc", "text"), fakes.nonsense([2]))
