"""Keeping a part of the training data aside: whole speakers, always the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from narspeech.errors import ManifestError


class Named(Protocol):
    """What tells examples apart."""

    @property
    def id(self) -> str: ...

    @property
    def speaker(self) -> str | None: ...


Example = TypeVar("Example", bound=Named)


class Split(NamedTuple, Generic[Example]):
    """Every example is in exactly one of the two, in the order it came."""

    train: list[Example]
    held_out: list[Example]


def split(
    examples: Sequence[Example],
    *,
    share: float | None = None,
    count: int | None = None,
    seed: int,
    by: Literal["speaker", "utterance"] = "speaker",
) -> Split[Example]:
    """Hold out about `share` (between 0 and 1) or `count` of the utterances; neither side is ever empty.

    by: "speaker" keeps a speaker on one side (an utterance whose speaker is unknown stands for itself), so the number
    held out is only about what was asked for; "utterance" is exact. Who is held out depends on the seed and the names
    alone, not on the order of the examples. Raises ManifestError when there is nothing to choose from.
    """
    target = _target(len(examples), share, count)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        known = by == "speaker" and example.speaker is not None
        key = ("speaker", str(example.speaker)) if known else ("utterance", example.id)
        groups.setdefault(key, []).append(index)
    if len(groups) < 2:
        raise ManifestError(
            f"expected at least two {by}s to hold one out, received {len(groups)} in {len(examples)} utterances; "
            "split by utterance or add data"
        )
    # Ranked by digest instead of shuffled: adding a speaker moves hardly anyone else to the other side.
    ranked = sorted(groups, key=lambda key: hashlib.sha256("\0".join((str(seed), *key)).encode()).digest())
    held_out: set[int] = set()
    left: list[list[int]] = []
    for key in ranked:
        if len(held_out) + len(groups[key]) <= target:
            held_out.update(groups[key])
        else:
            left.append(groups[key])
    smallest = min(left, key=len)
    missing = target - len(held_out)
    if not held_out or (len(left) > 1 and len(smallest) - missing < missing):
        held_out.update(smallest)
    return Split(
        [example for index, example in enumerate(examples) if index not in held_out],
        [example for index, example in enumerate(examples) if index in held_out],
    )


def _target(total: int, share: float | None, count: int | None) -> int:
    if (share is None) == (count is None):
        raise ValueError(f"expected either share or count, received share={share} and count={count}")
    if total < 2:
        raise ManifestError(f"expected at least two utterances to hold one out, received {total}; add data")
    if share is not None:
        if not 0 < share < 1:
            raise ValueError(f"expected a share between 0 and 1, received {share}")
        return min(max(round(share * total), 1), total - 1)
    assert count is not None
    if not 0 < count < total:
        raise ValueError(f"expected a count from 1 to {total - 1}, received {count}")
    return count
