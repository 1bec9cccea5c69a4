"""What can go wrong, told in one sentence: what was expected, what was received, how to mend it."""

import sys


class NarspeechError(ValueError):
    """Base of every error that narspeech raises about its input; `str(error)` is one clear sentence for the user."""


class AudioError(NarspeechError):
    """A recording cannot be read or holds nothing that can be transcribed."""


class ConfigError(NarspeechError):
    """A configuration names an unknown key or kind, or holds a value of the wrong type."""


class ManifestError(NarspeechError):
    """A manifest, reference or hypothesis file is malformed, or its ids do not agree."""


class CheckpointError(NarspeechError):
    """A checkpoint folder is missing, incomplete, of another format, or does not fit the model."""


class TrainingError(NarspeechError):
    """Training cannot go on: nothing to train on, or updates that stay non-finite."""


def complain(message: str) -> None:
    """Say it on stderr, on one line, as the commands do."""
    print("narspeech:", " ".join(message.splitlines()), file=sys.stderr)
