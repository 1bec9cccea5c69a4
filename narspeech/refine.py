"""THE refinement engine: every decoder family is drafted, refined and finished here."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Draft, Encoded, Padded, Round
from narspeech.decoders.base import DecodeOptions, Decoder
from narspeech.errors import ConfigError
from narspeech.ops.scorer import Scorer
from narspeech.result import Hypothesis, Step
from narspeech.tokenizer import MASK, PAD


@torch.inference_mode()
def decode(
    decoder: Decoder, encoded: Encoded, options: DecodeOptions, scorer: Scorer | None = None
) -> list[Hypothesis]:
    """Decode a batch; the hypotheses stand in the order of its rows and do not depend on their batch-mates. Where an
    utterance has several rows, the best is its hypothesis and the others are that one's alternatives.

    A row leaves the batch once it is settled, or, where the family repeats itself, once a step changed nothing and no
    MASK is left ("unchanged" alone would stop a row whose masks are still to be filled). There is one host sync a step,
    to learn which rows go on. Raises ConfigError for a scorer that the family could not hear.
    """
    if scorer is not None and not decoder.reads_scorer:
        raise ConfigError(
            f"expected a decoder that hears a language model or hotwords, received {type(decoder).__name__}: "
            "decode with ctc"
        )
    memory = decoder.prepare(encoded)
    draft = decoder.draft(memory, options, scorer)
    if len(draft.owner) > len(memory.mask):  # several candidates an utterance
        memory = memory.rows(draft.owner)
    whole = memory
    steps = torch.zeros_like(draft.owner)
    history = [draft]
    working, active, going = draft, torch.arange(len(draft.owner), device=draft.owner.device), ~decoder.settled(draft)
    for index in range(options.steps):
        kept = going.nonzero().squeeze(-1)
        if not len(kept):
            break
        if len(kept) < len(active):
            working, memory, active = working.rows(kept), memory.rows(kept), active[kept]
        before = working
        working = decoder.refine(before, memory, Round(index, options.steps), options, scorer)
        if len(active) == len(draft.owner):
            draft, steps = working, steps + 1
        else:
            draft, steps = merge(draft, working, active), steps.index_add(0, active, torch.ones_like(active))
        if options.trace:
            history.append(draft)
        if index + 1 == options.steps:  # nobody goes on
            break
        done = decoder.settled(working)
        if decoder.repeats:
            done = done | (unchanged(before, working) & ~(working.tokens.data == MASK).any(-1))
        going = ~done
    draft = decoder.finish(draft, whole, options)
    if len(draft.owner) > len(encoded.states.lengths):  # else there is nothing to choose from
        order = ranked(draft.owner, decoder.rank(draft, whole, options))
        draft, steps, history = draft.rows(order), steps[order], [moment.rows(order) for moment in history]
    return hypotheses(draft, steps, history if options.trace else [])


def unchanged(before: Draft, after: Draft) -> Tensor:
    """(R,) bool: rows whose tokens a step left as they were."""
    width = max(before.tokens.data.shape[1], after.tokens.data.shape[1])
    before, after = widen(before, width), widen(after, width)
    same = (before.tokens.data == after.tokens.data) | ~after.tokens.mask
    return same.all(-1) & (before.tokens.lengths == after.tokens.lengths)


def widen(draft: Draft, width: int) -> Draft:
    """The same rows with room for `width` tokens."""
    extra = width - draft.tokens.data.shape[1]
    if not extra:
        return draft
    return draft._replace(tokens=draft.tokens.widened(width, PAD), scores=F.pad(draft.scores, (0, extra)))


def merge(draft: Draft, part: Draft, index: Tensor) -> Draft:
    """`draft` with the rows that `index` names replaced by those of `part`."""
    width = max(draft.tokens.data.shape[1], part.tokens.data.shape[1])
    draft, part = widen(draft, width), widen(part, width)
    tokens = Padded(
        draft.tokens.data.index_copy(0, index, part.tokens.data),
        draft.tokens.lengths.index_copy(0, index, part.tokens.lengths),
    )
    return draft._replace(tokens=tokens, scores=draft.scores.index_copy(0, index, part.scores))


def ranked(owner: Tensor, value: Tensor) -> Tensor:
    """The order of rows by owner (R,), those of one owner by falling value (R,); equals keep their order."""
    order = value.argsort(descending=True, stable=True)
    return order[owner[order].argsort(stable=True)]


def hypotheses(draft: Draft, steps: Tensor, history: list[Draft]) -> list[Hypothesis]:
    """One for each owner, the rows of an owner standing together, the best first. Everything moves to the host here."""
    counts, owners = steps.tolist(), draft.owner.tolist()
    moments = [rows(moment) for moment in history]
    found = [
        Hypothesis(
            tokens=final.tokens,
            scores=final.scores,
            steps=counts[row],
            trace=tuple(moment[row] for moment in moments[: counts[row] + 1]),
        )
        for row, final in enumerate(rows(draft))
    ]
    groups = [[found[row] for row in group] for _, group in groupby(range(len(owners)), owners.__getitem__)]
    return [replace(best, alternatives=tuple(others)) if others else best for best, *others in groups]


def rows(draft: Draft) -> list[Step]:
    """The draft's rows as plain values at their own lengths."""
    tokens, scores, lengths = (x.tolist() for x in (draft.tokens.data, draft.scores, draft.tokens.lengths))
    return [
        Step(tokens=tuple(ids[:length]), scores=tuple(values[:length]))
        for ids, values, length in zip(tokens, scores, lengths, strict=True)
    ]
