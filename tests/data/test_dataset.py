"""Items, their speeds and their lengths are pure functions of (seed, epoch, index), with a cache or without."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from narspeech.data.dataset import SpeechDataset, collate
from narspeech.data.example import Example
from narspeech.errors import AudioError
from narspeech.tokenizer import PAD

RATE = 16000


class Letters:
    """A tokenizer with a token a character."""

    def encode(self, text: str) -> list[int]:
        return [6 + ord(character) for character in text]


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    """Five recordings of 1 to 2 s, the last a part of a longer file; 16-bit, so that the cache loses nothing."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(5):
        seconds = 1 + number / 4
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, generator.normal(0, 0.1, round(seconds * RATE)), RATE)
        made.append(Example(id=f"u{number}", audio=str(path), text="abc"[:number], duration=seconds))
    return [*made[:4], Example(id="u4", audio=made[4].audio, text="part", duration=1.0, start=0.5)]


def test_items(examples: list[Example]) -> None:
    dataset = SpeechDataset(examples, Letters())
    assert len(dataset) == 5
    item = dataset[(0, 2)]
    expected, _ = soundfile.read(examples[2].audio, dtype="float32")
    assert item.id == "u2"
    np.testing.assert_array_equal(item.source.numpy(), expected)
    assert item.tokens.tolist() == [6 + ord("a"), 6 + ord("b")]
    assert (item.source.dtype, item.tokens.dtype) == (torch.float32, torch.int64)
    whole, _ = soundfile.read(examples[4].audio, dtype="float32")
    np.testing.assert_array_equal(dataset[(0, 4)].source.numpy(), whole[8000:24000])


def test_cache_gives_the_same_items(examples: list[Example], tmp_path: Path) -> None:
    plain = SpeechDataset(examples, Letters(), speeds=(0.9, 1.0, 1.1))
    cached = SpeechDataset(examples, Letters(), speeds=(0.9, 1.0, 1.1), cache=tmp_path / "cache")
    for index in range(5):
        assert torch.equal(plain[(1, index)].source, cached[(1, index)].source)


def test_speed_is_a_plan() -> None:
    many = [Example(id=str(n), audio="none.wav", text="", duration=2.0) for n in range(3000)]
    speeds = (0.9, 1.0, 1.1)
    dataset = SpeechDataset(many, Letters(), speeds=speeds, seed=1)
    drawn = [dataset.speed(0, index) for index in range(3000)]
    counts = [drawn.count(speed) for speed in speeds]
    assert sum(counts) == 3000
    assert min(counts) > 850
    assert dataset.durations(0) == [2.0 / speed for speed in drawn]
    # Any other order of questions, a fresh dataset, a shorter list: the same answers.
    dataset.speed(7, 0)
    fresh = SpeechDataset(many[:100], Letters(), speeds=speeds, seed=1)
    assert [fresh.speed(0, index) for index in reversed(range(100))] == drawn[:100][::-1]
    # Another epoch or seed: other answers.
    assert [dataset.speed(1, index) for index in range(100)] != drawn[:100]
    other = SpeechDataset(many, Letters(), speeds=speeds, seed=2)
    assert [other.speed(0, index) for index in range(100)] != drawn[:100]


def test_durations_are_those_of_the_items(examples: list[Example]) -> None:
    dataset = SpeechDataset(examples, Letters(), speeds=(0.9, 1.1))
    for epoch in range(3):
        for index, seconds in enumerate(dataset.durations(epoch)):
            assert abs(len(dataset[(epoch, index)].source) / RATE - seconds) < 2 / RATE


@pytest.mark.parametrize("speeds", [(), (0.0,), (1.0, float("nan"))])
def test_wrong_speeds(speeds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="speeds"):
        SpeechDataset([], Letters(), speeds=speeds)


def test_collate(examples: list[Example]) -> None:
    items = [SpeechDataset(examples, Letters())[(0, index)] for index in (0, 3)]
    batch = collate(items)
    assert batch.ids == ("u0", "u3")
    assert batch.source.lengths.tolist() == [16000, 28000]
    assert batch.source.data.shape == (2, 28000)
    assert batch.source.data[0, 16000:].abs().sum() == 0
    assert batch.target.lengths.tolist() == [0, 3]
    assert batch.target.data.dtype == torch.int64
    assert batch.target.data[0].tolist() == [PAD] * 3
    assert torch.equal(batch.source.unpack()[1], items[1].source)


def test_unreadable_sound_names_the_file(examples: list[Example]) -> None:
    Path(examples[1].audio).write_bytes(b"no sound")
    with pytest.raises(AudioError, match=r"1\.wav"):
        SpeechDataset(examples, Letters())[(0, 1)]


def test_a_copy_in_another_process_maps_the_cache_itself(examples: list[Example], tmp_path: Path) -> None:
    dataset = SpeechDataset(examples, Letters(), cache=tmp_path / "cache")
    pickled = pickle.dumps(dataset)
    # Far smaller than the samples (about 180 kB), which stay in their file.
    assert len(pickled) < 5000
    assert torch.equal(pickle.loads(pickled)[(0, 2)].source, dataset[(0, 2)].source)
