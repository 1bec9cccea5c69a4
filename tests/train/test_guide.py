from __future__ import annotations

import torch

from narspeech.batch import Padded
from narspeech.checkpoint import save
from narspeech.data.dataset import SpeechDataset
from narspeech.data.example import Example
from narspeech.train.guide import character_starts, guide
from tests.fakes import RATE, TOKENIZER, sing, tiny_model, write_wav

TEXTS = ("abad", "cab da", "a")


def recordings(folder):
    examples = []
    for number, text in enumerate(TEXTS):
        path = write_wav(folder / f"{number}.wav", sing(text))
        examples.append(Example(id=f"song-{number}", audio=str(path), text=text, duration=len(sing(text)) / RATE))
    return examples, SpeechDataset(examples, TOKENIZER, rate=RATE)


def test_every_character_starts_where_its_token_does(tmp_path, monkeypatch):
    """The model's own posteriors are replaced by certain ones: character number n sounds from frame 3 n + 1 on."""
    examples, data = recordings(tmp_path)
    model = tiny_model()

    def encode(source):
        encoded = type(model).encode(model, source)
        rows = [TOKENIZER.encode(text) for text in by_sound(source)]
        sure = torch.full((len(rows), 24, TOKENIZER.size), -20.0)
        sure[:, :, 0] = 0.0
        for row, tokens in enumerate(rows):
            for number, token in enumerate(tokens):
                sure[row, 3 * number + 1, token], sure[row, 3 * number + 1, 0] = 0.0, -20.0
        return encoded._replace(ctc=Padded(sure, torch.full((len(rows),), 24)))

    def by_sound(source):
        lengths = {len(data[0, index].source): text for index, text in enumerate(TEXTS)}
        return [lengths[length] for length in source.lengths.tolist()]

    monkeypatch.setattr(model, "encode", encode)
    starts = character_starts(model, examples, data)
    seconds = model.encoder.reduction / model.frontend.frames_per_second
    for example in examples:
        expected = [round((3 * number + 1) * seconds, 3) for number in range(len(example.text))]
        assert starts[example.id] == expected


def test_a_guide_is_made_once(tmp_path):
    examples, data = recordings(tmp_path)
    save(tmp_path / "teacher", tiny_model())
    starts = guide(tmp_path / "starts.json", tmp_path / "teacher", examples, data)
    assert {name: len(row) for name, row in starts.items()} == {example.id: len(example.text) for example in examples}
    assert all(row == sorted(row) for row in starts.values())
    assert guide(tmp_path / "starts.json", tmp_path / "nowhere", examples, data) == starts
