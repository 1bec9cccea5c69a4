"""CTC beam search by flashlight (Kahn et al. 2022), in C++ on the CPU, beside a language model that KenLM holds; both
come with the extra `lm`.

Of flashlight's two searches the one without a lexicon knows no bonus a token, and the one with a lexicon, where every
piece is an entry, cannot stay with a token for a second frame. So the former searches here, with a bonus for frames
that seem to begin a token, and the texts that it finds are put in order by what `prefix_beam_search` goes by: log
P(text), of all paths, + weight x log P of the language model + bonus x tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from narspeech.batch import Draft, Padded
from narspeech.decoders.base import DecodeOptions, Memory
from narspeech.decoders.ctc import BEAM, CTCDecoder
from narspeech.errors import CheckpointError, NarspeechError
from narspeech.ops.ctc import ctc_loss
from narspeech.ops.scorer import Scorer
from narspeech.search import ngram_file
from narspeech.search.arpa import LOG_TEN, foreign, names, read_words, write_arpa
from narspeech.tokenizer import BLANK, PAD

# How a binary file of KenLM begins, and the first of its words, which stand at the end of it.
MAGIC, FIRST_WORD = b"mmap lm http://kheafield.com/code", b"<unk>\0"
# Labels that each frame may go on with: the blank, and as many tokens as in `prefix_beam_search`.
POOL = 17
# Beams that are so much worse than the best one, as logarithms, are dropped.
THRESHOLD = 50.0
# For what is no number: in a sort of NaN, C++ may run out of its array.
IMPOSSIBLE = -1e4


class Library(NamedTuple):
    """The modules of flashlight that are used here; they have no types."""

    decoder: Any
    dictionary: Any
    kenlm: Any


class Texts(NamedTuple):
    """K texts of one utterance, the best first: tokens (K, U), and scores (K, U), each token's highest log-posterior
    before the next one begins."""

    tokens: Padded
    scores: Tensor


class Flashlight(CTCDecoder):
    """The CTC head, read by flashlight. lm: a model of `narspeech lm`, compact or ARPA, or a binary file that KenLM
    made of an ARPA file, over the tokens `pieces`; None for none.

    Raises NarspeechError without the extra `lm`, and CheckpointError for a language model that is damaged or speaks of
    other tokens.
    """

    reads_scorer = False

    def __init__(self, lm: Path | None, pieces: Sequence[str]) -> None:
        super().__init__()
        self.library = load_library()
        self.lm = self.library.decoder.ZeroLM() if lm is None else load_kenlm(self.library, lm, tuple(pieces))

    def draft(self, memory: Memory, options: DecodeOptions, scorer: Scorer | None = None) -> Draft:
        """The best texts of every utterance in a beam, best first. A beam of 1 stands for BEAM."""
        assert memory.ctc is not None
        assert scorer is None
        found = [self.search(row, options) for row in memory.ctc._replace(data=memory.ctc.data.float().cpu()).unpack()]
        owner = torch.tensor([row for row, texts in enumerate(found) for _ in texts.scores])
        tokens = Padded.pack([text for texts in found for text in texts.tokens.unpack()], PAD)
        width = tokens.data.shape[1]
        scores = torch.cat([F.pad(texts.scores, (0, width - texts.scores.shape[1])) for texts in found])
        device = memory.ctc.data.device
        owner = owner.to(device)
        return Draft(tokens.to(device), scores.to(device), owner, torch.zeros_like(owner))

    def search(self, log_probs: Tensor, options: DecodeOptions) -> Texts:
        """The best texts of one utterance, whose log-probabilities are (T, V), on the CPU."""
        if not len(log_probs):
            return read_paths(log_probs, torch.zeros(1, 0, dtype=torch.long))
        log_probs = log_probs.nan_to_num(IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE)
        module, beam = self.library.decoder, BEAM if options.beam == 1 else options.beam
        settings = module.LexiconFreeDecoderOptions(
            beam_size=beam,
            beam_size_token=POOL,
            beam_threshold=THRESHOLD,
            lm_weight=options.lm_weight * LOG_TEN,  # KenLM's logarithms are to the base 10
            sil_score=0.0,
            log_add=True,
            criterion_type=module.CriterionType.CTC,
        )
        # It wants a token of silence, too: PAD is one that no head writes.
        decoder = module.LexiconFreeDecoder(settings, self.lm, PAD, BLANK, [])
        emissions = (log_probs + begun(log_probs, options.token_bonus)).contiguous()
        results = decoder.decode(emissions.data_ptr(), *emissions.shape)
        # A path has a frame more at each end.
        texts = read_paths(log_probs, torch.tensor([result.tokens[1:-1] for result in results]))
        judged = options.lm_weight * LOG_TEN * torch.tensor([result.lmScore for result in results])
        return in_order(log_probs, texts, judged + options.token_bonus * texts.tokens.lengths)


def begun(log_probs: Tensor, bonus: float) -> Tensor:
    """(T, V) what each token earns at each frame: the bonus times the probability that the frame before, of
    log-probabilities (T, V), was not the same token's. Over the frames of a token that makes about one bonus."""
    before = F.pad(log_probs[:-1].exp(), (0, 0, 1, 0))
    return (bonus * (1 - before)).index_fill(1, torch.tensor(BLANK), 0.0)


def read_paths(log_probs: Tensor, paths: Tensor) -> Texts:
    """What paths (K, T) spell through log-probabilities (T, V)."""
    fresh = (paths != BLANK) & (paths != F.pad(paths, (1, 0), value=BLANK)[:, :-1])
    place = fresh.cumsum(1)  # the number of the token that stands at each frame, 0 before the first
    lengths = fresh.sum(1)
    tokens = paths.new_full((len(paths), int(lengths.max()) + 1), PAD)
    tokens = tokens.scatter(1, place.where(fresh, 0), paths)
    values = log_probs.gather(1, tokens.gather(1, place).T).T
    scores = torch.full(tokens.shape, -torch.inf).scatter_reduce(1, place, values, "amax")[:, 1:]
    found = Padded(tokens[:, 1:], lengths)
    return Texts(found, scores.where(found.mask, 0.0))


def in_order(log_probs: Tensor, texts: Texts, extra: Tensor) -> Texts:
    """The texts by falling log P(text) + extra (K,), given log-probabilities (T, V)."""
    frames = torch.full_like(texts.tokens.lengths, len(log_probs))
    losses, _ = ctc_loss(Padded(log_probs.expand(len(frames), -1, -1), frames), texts.tokens)
    order = (extra - losses).argsort(descending=True, stable=True)
    return Texts(texts.tokens.rows(order), texts.scores[order])


def load_library() -> Library:
    """Raises NarspeechError without the extra."""
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError:
        raise NarspeechError(
            "expected flashlight-text with KenLM for the decoder flashlight, received an environment without it: "
            'pip install "narspeech[lm]", or take the decoder ctc'
        ) from None
    return Library(decoder, dictionary, kenlm)


def load_kenlm(library: Library, path: Path, pieces: tuple[str, ...]) -> Any:
    """The language model in a file as KenLM holds it, asked for by the places of the pieces."""
    if path.suffix != ".arpa" and not is_binary(path):
        model = ngram_file.read(path, pieces)
        with tempfile.TemporaryDirectory() as folder:  # the only way to tell KenLM of it is a file
            write_arpa(Path(folder) / "lm.arpa", model)
            return load_kenlm(library, Path(folder) / "lm.arpa", pieces)
    expected = names(pieces)
    known = set(expected)
    unknown = next((word for word in read_vocabulary(path) if word not in known), None)
    if unknown is not None:
        raise foreign(str(path), unknown)
    try:
        return library.kenlm.KenLM(str(path), library.dictionary.Dictionary(expected))
    except RuntimeError as error:
        raise CheckpointError(
            f"expected a language model that KenLM reads in {path}, received: {error}; make it anew"
        ) from error


def is_binary(path: Path) -> bool:
    """Whether a file is KenLM's own. One that cannot be read is not."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_vocabulary(path: Path) -> Iterable[str]:
    """The words of an ARPA file or of a binary file of KenLM. Raises CheckpointError."""
    if not is_binary(path):
        return read_words(path)
    content = path.read_bytes()
    start = content.rfind(FIRST_WORD)
    words = content[start:].decode("utf-8", "replace").split("\0") if start >= 0 else []
    if not words or words.pop():
        raise CheckpointError(f"expected the words of a KenLM file at the end of {path}, received none: make it anew")
    return words
