"""What a decoder is: five questions that the refinement engine and the trainer ask of every family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from narspeech.batch import Batch, Draft, Encoded, Loss, Padded, Round, TrainStep
from narspeech.errors import ConfigError
from narspeech.ops.scorer import Scorer
from narspeech.tokenizer import MASK


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """steps: refinement budget K; threshold: tokens less confident than this are refined, every one at 1; candidates:
    hypotheses that are refined side by side, such as lengths, fertilities or samples; beam: hypotheses that a search
    keeps; trace: keep every step. A family reads what it knows of. Raises ConfigError.

    lm_weight, hotword_weight: what a language model's log-probabilities and each character of a hotword count beside
    the model's own log-probabilities; token_bonus: what a search beside a scorer adds for every token, since a language
    model prefers short texts (a Transcriber without one asks for none). They matter where there is a language model, or
    hotwords.
    """

    steps: int = 10
    threshold: float = 0.99
    candidates: int = 1
    beam: int = 1
    lm_weight: float = 0.5
    token_bonus: float = 1.0
    hotword_weight: float = 1.0
    trace: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"expected steps of 0 or more, received {self.steps}: 0 keeps the draft, 10 is usual")
        for name in ("candidates", "beam"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of 1 or more, received {getattr(self, name)}; 5 is usual")
        for name in ("lm_weight", "hotword_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"expected {name} of 0 or more, received {getattr(self, name)}: 0.5 is usual")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"expected a threshold between 0 and 1, received {self.threshold}: 1 refines every token")

    def but(self, **changes: Any) -> DecodeOptions:
        """The same with these changes, but for those that are None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def check_shares(name: str, *values: float) -> None:
    """Raises ConfigError unless the values of a setting lie between 0 and 1."""
    if not all(0 <= value <= 1 for value in values):
        received = ", ".join(map(str, values))
        raise ConfigError(f"expected {name} between 0 and 1, received {received}: it is a share")


class Memory(NamedTuple):
    """All that decoding reads of the encoder, computed once an utterance; never changed.

    mask: (R, 1, 1, T) real frames; states: (R, T, D) of the encoder; inputs: what it read; keys and values: a layer's
    cross-attention, each (R, H, T, D / H); ctc: (R, T, V); places: (R, U) where the tokens of a draft of fixed length
    stand, in frames or by their number; heard: (R, U, D) what is added to each of them for the sound at its place.
    """

    mask: Tensor
    states: Padded
    inputs: Padded
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    ctc: Padded | None = None
    places: Tensor | None = None
    heard: Tensor | None = None

    def rows(self, index: Tensor) -> Memory:
        states, inputs = self.states.rows(index), self.inputs.rows(index)
        ctc = None if self.ctc is None else self.ctc.rows(index)
        keys, values = (tuple(x[index] for x in part) for part in (self.keys, self.values))
        places, heard = (None if x is None else x[index] for x in (self.places, self.heard))
        return Memory(self.mask[index], states, inputs, keys, values, ctc, places, heard)


class Decoder(nn.Module):
    """A family of decoders. Tokens are (R, U) ids; all families share `refine.decode`.

    reads_scorer: whether a scorer, such as a language model, can have its say in `draft` and `refine`; reads_ctc:
    whether the model must have a CTC head for it; repeats: whether a step that changed nothing would be followed by
    more of the same, so that the row is done; not where each step looks at other tokens. writes_path: whether a draft's
    tokens are the labels of all T states, which `finish` collapses. several: the settings of `DecodeOptions` above 1 of
    which an utterance has several hypotheses.
    """

    reads_ctc = False
    reads_scorer = False
    repeats = True
    writes_path = False
    several: tuple[str, ...] = ()

    def prepare(self, encoded: Encoded) -> Memory:
        raise NotImplementedError

    def loss(self, encoded: Encoded, batch: Batch, step: TrainStep) -> Loss:
        raise NotImplementedError

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """The first hypotheses: owners 0, 1, ... are the rows of the memory, in order, each with one row or more."""
        raise NotImplementedError

    def refine(
        self, draft: Draft, memory: Memory, turn: Round, options: DecodeOptions, scorer: Scorer | None = None
    ) -> Draft:
        """One refinement step; rows of draft and memory correspond. Never mutates its arguments."""
        return draft

    def settled(self, draft: Draft) -> Tensor:
        """(R,) bool: rows that no further step would change, so that they need not pay for one: those without a MASK,
        unless a family rewrites what is decided."""
        return ~(draft.tokens.data == MASK).any(-1)

    def finish(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Draft:
        """The same rows in the form in which they come out: without end marks, collapsed."""
        return draft

    def rank(self, draft: Draft, memory: Memory, options: DecodeOptions) -> Tensor:
        """(R,) how good a finished row is beside the others of its owner: the mean log-probability a token. A row
        without tokens has none, and goes behind the others."""
        lengths = draft.tokens.lengths
        return ((draft.scores * draft.tokens.mask).sum(-1) / lengths).masked_fill(lengths == 0, float("-inf"))

    def score(self, tokens: Padded, memory: Memory) -> Tensor:
        """(R,) log-probability of whole given hypotheses (R, U); rows of both correspond. To rescore another model's
        hypotheses, and to distil. Raises ConfigError where a family gives none."""
        raise ConfigError(
            f"expected a decoder that scores a given text, received {type(self).__name__}: take an autoregressive one"
        )
