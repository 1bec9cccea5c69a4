"""The engine against a naive reference: one row at a time, in plain Python, without dropping anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from narspeech.batch import Draft, Encoded, Padded, Round
from narspeech.decoders.base import DecodeOptions, Decoder, Memory
from narspeech.model import DECODERS
from narspeech.ops.scorer import Scorer
from narspeech.refine import decode
from narspeech.result import Hypothesis, Step
from narspeech.tokenizer import MASK, PAD
from tests import fakes

A, B, C = 6, 7, 8


class Scripted(Decoder):
    """Each row plays its own script: the tokens of its draft, then those after each step; the last ones stay.

    The memory carries which row is which, so that a row is found again when others have left the batch.
    """

    def __init__(self, scripts: list[list[list[int]]], *, settles: bool = False) -> None:
        super().__init__()
        self.scripts, self.settles = scripts, settles
        self.calls: list[list[int]] = []

    def prepare(self, encoded: Encoded) -> Memory:  # noqa: ARG002
        rows = torch.arange(len(self.scripts))
        nothing = Padded(rows[:, None].float(), torch.ones_like(rows))
        return Memory(rows[:, None, None, None], nothing, nothing)

    def _draft(self, rows: list[int], place: int, undecided: Tensor) -> Draft:
        scripts = [self.scripts[row] for row in rows]
        tokens = Padded.pack([torch.tensor(script[min(place, len(script) - 1)]).long() for script in scripts], PAD)
        # A score tells its row and when it was written.
        written = [min(place, len(script) - 1) for script in scripts]
        scores = -torch.tensor([[row + time / 100] for row, time in zip(rows, written, strict=True)])
        return Draft(tokens, scores.expand(tokens.data.shape), torch.tensor(rows), undecided)

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:  # noqa: ARG002
        rows = memory.mask.flatten().tolist()
        masks = torch.tensor([script[0].count(MASK) for script in self.scripts])
        return self._draft(rows, 0, masks)

    def refine(
        self,
        draft: Draft,
        memory: Memory,
        turn: Round,
        options: DecodeOptions,
        scorer: Scorer | None = None,  # noqa: ARG002
    ) -> Draft:
        rows = memory.mask.flatten().tolist()
        assert draft.owner.tolist() == rows
        assert turn.steps == options.steps
        assert draft.undecided.tolist() == [self.scripts[row][0].count(MASK) for row in rows]
        for row, tokens in zip(rows, draft.tokens.unpack(), strict=True):
            assert tokens.tolist() == self.scripts[row][min(turn.index, len(self.scripts[row]) - 1)]
        self.calls.append(rows)
        return self._draft(rows, turn.index + 1, draft.undecided)

    def settled(self, draft: Draft) -> Tensor:
        return super().settled(draft) if self.settles else torch.zeros_like(draft.owner, dtype=torch.bool)


def play(script: list[list[int]], steps: int, *, settles: bool) -> tuple[list[list[int]], int]:
    """The reference: what a row shows after each of the steps that it takes, and how many those are."""
    shown = [script[0]]
    if settles and MASK not in script[0]:
        return shown, 0
    for place in range(1, steps + 1):
        shown.append(script[min(place, len(script) - 1)])
        done = MASK not in shown[-1] and (settles or shown[-1] == shown[-2])
        if done:
            break
    return shown, len(shown) - 1


def nothing(rows: int) -> Encoded:
    states = Padded(torch.zeros(rows, 1, 1), torch.ones(rows).long())
    return Encoded(states, states)


def moment(row: int, time: int, script: list[list[int]]) -> Step:
    time = min(time, len(script) - 1)
    score = -float(torch.tensor(row + time / 100))
    return Step(tokens=tuple(script[time]), scores=(score,) * len(script[time]))


def check(scripts: list[list[list[int]]], steps: int, *, settles: bool) -> list[Hypothesis]:
    decoder = Scripted(scripts, settles=settles)
    found = decode(decoder, nothing(len(scripts)), DecodeOptions(steps=steps, trace=True))
    plain = decode(Scripted(scripts, settles=settles), nothing(len(scripts)), DecodeOptions(steps=steps))
    expected = []
    for row, script in enumerate(scripts):
        shown, count = play(script, steps, settles=settles)
        trace = tuple(moment(row, time, script) for time in range(len(shown)))
        assert [list(step.tokens) for step in trace] == shown
        expected.append(Hypothesis(tokens=trace[-1].tokens, scores=trace[-1].scores, steps=count, trace=trace))
    assert found == expected
    assert [(h.tokens, h.scores, h.steps, h.trace) for h in plain] == [
        (h.tokens, h.scores, h.steps, ()) for h in expected
    ]
    # Nobody pays for a row that is done.
    for index, rows in enumerate(decoder.calls):
        assert rows == [row for row, h in enumerate(expected) if h.steps > index]
    return found


row_scripts = st.lists(st.lists(st.sampled_from([A, B, MASK]), max_size=4), min_size=1, max_size=6)


@given(st.lists(row_scripts, min_size=1, max_size=5), st.integers(0, 7), st.booleans())
def test_engine_equals_the_naive_reference(scripts: list[list[list[int]]], steps: int, settles: bool) -> None:
    # The scripts change tokens and lengths at will, stand still with and without MASKs, and some are empty.
    check(scripts, steps, settles=settles)


def test_unchanged_alone_does_not_stop_a_row_with_masks() -> None:
    waits = [[A, MASK], [A, MASK], [A, MASK], [A, B], [A, B], [C]]
    (found,) = check([waits], 9, settles=False)
    assert found.tokens == (A, B)
    assert found.steps == 4


def test_where_steps_differ_one_that_changed_nothing_does_not_stop_a_row() -> None:
    decoder = Scripted([[[A], [A], [B], [B], [C]]], settles=False)
    decoder.repeats = False
    (found,) = decode(decoder, nothing(1), DecodeOptions(steps=4))
    assert (found.tokens, found.steps) == ((C,), 4)


def test_an_oscillating_row_stops_at_the_cap() -> None:
    oscillates = [[A, B], [B, A]] * 50
    for steps in (1, 4, 7):
        (found, still) = check([oscillates, [[C]]], steps, settles=False)
        assert found.steps == steps
        assert found.tokens == tuple(oscillates[steps])
        assert still.steps == 1


def test_lengths_may_change() -> None:
    grows, shrinks = [[A], [A, B], [A, B, C, A]], [[A, B, C], [A], []]
    found = check([grows, shrinks, [[B]]], 5, settles=False)
    assert [h.tokens for h in found] == [(A, B, C, A), (), (B,)]
    assert [h.steps for h in found] == [3, 3, 1]


def test_settled_rows_never_enter_a_step() -> None:
    decoder = Scripted([[[A]], [[MASK], [B]], [[]]], settles=True)
    found = decode(decoder, nothing(3), DecodeOptions())
    assert decoder.calls == [[1]]
    assert [(h.tokens, h.steps) for h in found] == [((A,), 0), ((B,), 1), ((), 0)]


def test_no_steps_give_the_draft() -> None:
    decoder = Scripted([[[A, MASK], [A, B]]])
    (found,) = decode(decoder, nothing(1), DecodeOptions(steps=0, trace=True))
    assert found.tokens == (A, MASK)
    assert found.trace == (Step(tokens=(A, MASK), scores=found.scores),)
    assert decoder.calls == []


def test_arguments_stay_as_they_were() -> None:
    model = fakes.tiny_model()
    encoded = model.encode(fakes.noise([4000, 2000]))
    before = [x.clone() for x in (encoded.states.data, encoded.states.lengths, encoded.ctc.data)]  # type: ignore[union-attr]
    decode(model.decoder, encoded, DecodeOptions(threshold=1.0))
    after = (encoded.states.data, encoded.states.lengths, encoded.ctc.data)  # type: ignore[union-attr]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


class Syncs(TorchFunctionMode):
    """Counts what would make the host wait for an accelerator."""

    WAITS = frozenset(
        [
            *("item", "tolist", "numpy", "cpu", "__int__", "__float__", "__bool__", "__index__"),
            *("nonzero", "equal", "allclose", "masked_select", "unique", "unique_consecutive"),
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], tuple) else args[1:2])
        )
        self.count += name in self.WAITS or by_mask
        return func(*args, **(kwargs or {}))


def test_the_counter_counts() -> None:
    x = torch.arange(5)
    with torch.inference_mode(), Syncs() as counter:
        assert x.sum().item() == 10
        x.nonzero()
        x[x > 2] = 1
        if x[0] > 1:
            raise AssertionError
        int(x.max())
        x[torch.tensor([1, 2])] + len(x)
    assert counter.count == 5


@pytest.mark.parametrize("kind", list(DECODERS))
def test_at_most_one_sync_a_step(kind: str) -> None:
    model = fakes.tiny_model(kind)
    with torch.inference_mode():
        encoded = model.encode(fakes.noise([8000, 2100, 5003, 0, 799]))
    counts, steps = [], []
    for budget in range(6):
        with Syncs() as counter:
            found = decode(model.decoder, encoded, DecodeOptions(steps=budget, threshold=1.0))
        counts.append(counter.count)
        steps.append(max(hypothesis.steps for hypothesis in found))
    # The draft's width, and five to hand the result over; a beam search asks at every place.
    places = max(len(hypothesis.tokens) for hypothesis in found) if kind == "ar" else 0
    assert 1 <= counts[0] <= 6 + places
    for budget, (taken, count) in enumerate(zip(steps, counts, strict=True)):
        asked = min(taken + 1, budget)  # which rows go on; not after the last step
        widths = taken if kind == "levenshtein" else 0  # what it has inserted, and whether anything is to be filled
        assert count - counts[0] <= asked + widths
    if kind == "mask_ctc":
        assert steps == [0, 1, 2, 3, 4, 5]
        assert counts[-1] == counts[0] + 5


@pytest.mark.parametrize("kind", list(DECODERS))
def test_decoders_equal_themselves_one_row_at_a_time(kind: str) -> None:
    """No row leaves, no batch: the naive loop over a decoder's own draft, refine and finish."""
    model = fakes.tiny_model(kind)
    options = DecodeOptions(steps=4, threshold=0.9, trace=True)
    source = fakes.noise([8000, 5003, 2100, 0, 799, 8000])
    for row, found in enumerate(model.decode(source, options)):
        with torch.inference_mode():
            encoded = model.encode(source.rows(torch.tensor([row])))
            memory = model.decoder.prepare(encoded)
            draft = model.decoder.draft(memory, options)
            shown = [draft]
            for index in range(options.steps):
                stands = len(shown) > 1 and torch.equal(shown[-2].tokens.data, draft.tokens.data)
                if model.decoder.settled(draft) or (stands and MASK not in draft.tokens.data):
                    break
                draft = model.decoder.refine(draft, memory, Round(index, options.steps), options)
                shown.append(draft)
            draft = model.decoder.finish(draft, memory, options)
        assert [list(step.tokens) for step in found.trace] == [
            moment.tokens.data[0, : moment.tokens.lengths[0]].tolist() for moment in shown
        ]
        assert found.steps == len(shown) - 1
        assert list(found.tokens) == draft.tokens.data[0, : draft.tokens.lengths[0]].tolist()
        assert found.scores == pytest.approx(draft.scores[0, : draft.tokens.lengths[0]].tolist(), abs=1e-4)
