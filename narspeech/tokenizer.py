"""Text to token ids and back: characters and SentencePiece, the special ids first in every vocabulary."""

from __future__ import annotations

import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from narspeech.errors import CheckpointError, ConfigError, NarspeechError
from narspeech.files import write_atomic

BLANK, PAD, MASK, BOS, EOS, UNK = range(6)
NUM_SPECIAL = 6
SPECIAL_PIECES = ("<blank>", "<pad>", "<mask>", "<bos>", "<eos>", "<unk>")

_UNKNOWN = "⁇"
_FORMAT = 1
_RECORD_FILE = "tokenizer.json"
_MODEL_FILE = "tokenizer.model"
_SPACE_MARK = "▁"  # how SentencePiece writes a space


class Tokenizer(ABC):
    """A frozen vocabulary. It never changes case and treats only " " as a space; runs of spaces count as one.

    `decode(encode(text)) == text` for text of known characters whose words are separated by single spaces.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def pieces(self) -> tuple[str, ...]:
        """Every id's surface, specials included ("<blank>", ...); SentencePiece's show a space as "▁"."""

    @property
    @abstractmethod
    def _surfaces(self) -> tuple[str, ...]:
        """What every id adds to decoded text: nothing for a special, "⁇" for UNK."""

    @property
    def size(self) -> int:
        """The number of ids, specials included."""
        return len(self.pieces)

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of every text; a character outside the vocabulary becomes UNK, no other special occurs."""

    def encode(self, text: str) -> list[int]:
        """The token ids of one text."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: specials are skipped, UNK shows as "⁇". Raises NarspeechError on an id out of range."""
        return " ".join(word for word in "".join(self._texts(ids)).split(" ") if word)

    def words(self, ids: Iterable[int]) -> list[tuple[str, slice]]:
        """Every word of `ids` with the slice of positions from its first to its last token that shows a character.

        A token that is only a space belongs to no word; specials inside a word lie within its slice.
        The words joined by spaces are `decode(ids)`.
        """
        texts = self._texts(ids)
        owner = [position for position, text in enumerate(texts) for _ in text]  # the token of every character
        return [
            (word.group(), slice(owner[word.start()], owner[word.end() - 1] + 1))
            for word in re.finditer("[^ ]+", "".join(texts))
        ]

    def offsets(self, ids: Iterable[int]) -> list[int]:
        """The place in `decode(ids)` of each token's first character that is not a space; for a token that is only a
        space, the place of that space. For ids that `encode` made of a text with single spaces."""
        texts = self._texts(ids)
        joined = "".join(texts)
        start = len(joined.lstrip(" ")) - len(joined)
        places = []
        for text in texts:
            spaces = len(text) - len(text.lstrip(" "))
            places.append(max(0, start + min(spaces, max(len(text) - 1, 0))))
            start += len(text)
        return places

    def _texts(self, ids: Iterable[int]) -> list[str]:
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.size:
            raise NarspeechError(
                f"expected token ids from 0 to {self.size - 1}, received {int(min(ids))} to {int(max(ids))}; "
                "use the tokenizer that the model was trained with"
            )
        return [self._surfaces[index] for index in ids]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write tokenizer.json (and tokenizer.model) into `folder`, made where missing, each atomically."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, record: dict[str, object]) -> Tokenizer:
        """The inverse of `save`, given what tokenizer.json holds beside its format and kind."""


@dataclass(frozen=True)
class CharacterTokenizer(Tokenizer):
    """One token a character: the n-th of `alphabet` has id NUM_SPECIAL + n. Space is a character as any other."""

    kind: ClassVar[str] = "characters"

    alphabet: str

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise ConfigError(
                f"expected an alphabet of distinct characters, received {self.alphabet!r}; list each once"
            )
        if any("\ud800" <= character <= "\udfff" for character in self.alphabet):
            raise ConfigError(
                "expected an alphabet of whole characters, received half a surrogate pair; read text as UTF-8"
            )

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        return (*SPECIAL_PIECES, *self.alphabet)

    @cached_property
    def _surfaces(self) -> tuple[str, ...]:
        return (*[""] * UNK, _UNKNOWN, *self.alphabet)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {character: index for index, character in enumerate(self.alphabet, NUM_SPECIAL)}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        find = self._index.get
        return [[find(character, UNK) for character in text] for text in texts]

    def save(self, folder: Path) -> None:
        _write_record(folder, self.kind, alphabet=self.alphabet)

    @classmethod
    def _load(cls, folder: Path, record: dict[str, object]) -> CharacterTokenizer:  # noqa: ARG003  # it has no other file
        alphabet = record.get("alphabet")
        if set(record) != {"alphabet"} or not isinstance(alphabet, str):
            raise ConfigError(
                f"expected an alphabet and nothing else, received {sorted(record)}; save the tokenizer again"
            )
        return cls(alphabet)


@dataclass(frozen=True)
class SentencePieceTokenizer(Tokenizer):
    """A unigram or BPE vocabulary; `model` is SentencePiece's own file; its piece n has id UNK + n (0 is <unk>)."""

    kind: ClassVar[str] = "sentencepiece"

    model: bytes = field(repr=False)

    def __post_init__(self) -> None:
        # An empty model would load, and only grumble on stderr.
        try:
            processor = self._processor if self.model else None
        except RuntimeError:
            processor = None
        if processor is None:
            raise ConfigError(f"expected a SentencePiece model, received {len(self.model)} other bytes; train it again")
        specials = (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id())
        if specials != (0, -1, -1, -1) or any(map(processor.is_byte, range(processor.get_piece_size()))):
            raise ConfigError(
                f"expected a SentencePiece model with unk, bos, eos, pad = 0, -1, -1, -1 and without byte fallback, "
                f"received {specials} or bytes; train it with train_sentencepiece"
            )

    @cached_property
    def _processor(self) -> SentencePieceProcessor:
        return SentencePieceProcessor(model_proto=self.model)

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        count = self._processor.get_piece_size()
        return (*SPECIAL_PIECES, *(self._processor.id_to_piece(index) for index in range(1, count)))

    @cached_property
    def _surfaces(self) -> tuple[str, ...]:
        ordinary = (piece.replace(_SPACE_MARK, " ") for piece in self.pieces[NUM_SPECIAL:])
        return (*[""] * UNK, _UNKNOWN, *ordinary)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[index + UNK for index in row] for row in self._processor.encode(list(texts))]

    def save(self, folder: Path) -> None:
        # The model first: a kill in between leaves a record that does not match it, which `load` reports.
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _MODEL_FILE, self.model)
        _write_record(folder, self.kind, sha256=hashlib.sha256(self.model).hexdigest())

    @classmethod
    def _load(cls, folder: Path, record: dict[str, object]) -> SentencePieceTokenizer:
        if set(record) != {"sha256"}:
            raise ConfigError(
                f"expected a sha256 and nothing else, received {sorted(record)}; save the tokenizer again"
            )
        model = (folder / _MODEL_FILE).read_bytes()
        if (found := hashlib.sha256(model).hexdigest()) != record["sha256"]:
            raise ConfigError(
                f"expected {_MODEL_FILE} with sha256 {record['sha256']}, received {found}; copy both files again"
            )
        return cls(model)


TOKENIZERS: dict[str, type[Tokenizer]] = {cls.kind: cls for cls in (CharacterTokenizer, SentencePieceTokenizer)}


def load(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`. Raises CheckpointError if a file is missing, damaged or of another format."""
    try:
        record = json.loads((folder / _RECORD_FILE).read_bytes())
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise ConfigError(f"expected format {_FORMAT}, received another; save it with this version of narspeech")
        kind = record.pop("kind", None)
        if not isinstance(kind, str) or kind not in TOKENIZERS:
            raise ConfigError(
                f"expected kind to be one of {', '.join(TOKENIZERS)}, received {kind!r}; mend {_RECORD_FILE}"
            )
        return TOKENIZERS[kind]._load(folder, record)
    except OSError as error:
        raise CheckpointError(f"expected a tokenizer in {folder}, received {error}; copy the whole folder") from error
    except ValueError as error:  # ours, JSON's and UTF-8's
        raise CheckpointError(f"expected a readable tokenizer in {folder}, received a damaged one: {error}") from error


def train_characters(texts: Iterable[str]) -> CharacterTokenizer:
    """The characters that occur in `texts`, in code point order. Raises ConfigError if there is none."""
    found: set[str] = set()
    for text in texts:
        found.update(text)
    if not found:
        raise ConfigError("expected text to take an alphabet from, received none; check the training transcripts")
    return CharacterTokenizer("".join(sorted(found)))


def train_sentencepiece(
    texts: Iterable[str],
    *,
    size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    character_coverage: float = 1.0,
) -> SentencePieceTokenizer:
    """Train a vocabulary of exactly `size` ids, specials included; the same texts give the same bytes.

    Nothing is normalised but runs of spaces. Below a `character_coverage` of 1 the rarest characters become UNK.
    Raises ConfigError, with the sizes that can be reached, if `size` cannot.
    """
    if model_type not in ("unigram", "bpe"):
        raise ConfigError(f"expected model_type to be unigram or bpe, received {model_type!r}; choose one of them")
    if not 0.98 <= character_coverage <= 1:  # SentencePiece's own bounds
        raise ConfigError(
            f"expected character_coverage from 0.98 to 1, received {character_coverage}; 1 keeps every character"
        )
    # A list: an error that `texts` raises would come back from SentencePiece as an opaque one.
    sentences = [text for text in texts if text.strip(" ")]
    if not sentences:
        raise ConfigError("expected text to train a vocabulary on, received none; check the training transcripts")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=model_type,
            vocab_size=max(size - UNK, 1),
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            byte_fallback=False,
            unk_id=UNK - UNK,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 24,  # longer sentences (in bytes) would be left out without a word
            num_threads=1,  # the sums, hence the pieces, depend on the number of threads
            minloglevel=3,
        )
    except RuntimeError as error:
        raise _size_error(size, str(error)) from error
    return SentencePieceTokenizer(model.getvalue())


def _size_error(size: int, message: str) -> ConfigError:
    """SentencePiece tells its own limits, which lack our specials, in prose."""
    if most := re.search(r"value <= (\d+)", message):
        return ConfigError(
            f"expected a size of at most {int(most[1]) + UNK} for this text, received {size}; lower it or add text"
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return ConfigError(
            f"expected a size of at least {int(least[1]) + UNK} for this text, received {size}; raise it"
        )
    return ConfigError(f"expected text that SentencePiece can learn {size} pieces from, received its error: {message}")


def _write_record(folder: Path, kind: str, **record: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": _FORMAT, "kind": kind, **record}, ensure_ascii=False, indent=2)
    write_atomic(folder / _RECORD_FILE, f"{text}\n".encode())
