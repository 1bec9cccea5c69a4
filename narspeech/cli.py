"""The `narspeech` command: picks the feature that a first word names and lets it read the rest.

A feature's file has `main(argv) -> int`, imported only when chosen, so that `narspeech --help` stays instant.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from narspeech import __version__
from narspeech.errors import NarspeechError, complain
from narspeech.memory import keep_freed_memory


class Command(NamedTuple):
    """The module whose `main` runs the command, and its line in the help."""

    module: str
    summary: str


COMMANDS = {
    "transcribe": Command("narspeech.transcription", "write down what is said in sound files"),
    "inspect": Command("narspeech.inspection.command", "see what the model did with a recording, on an HTML page"),
    "translate": Command("narspeech.translator", "translate text, a line out for every line in"),
    "evaluate": Command("narspeech.evaluate.report", "score hypotheses against references: WER and CER, BLEU and chrF"),
    "lm": Command("narspeech.lm", "train an n-gram language model on text"),
    "run": Command("narspeech.run", "prepare, train, average, decode and score by a recipe"),
    "compare": Command("narspeech.compare", "finished runs side by side, in quality and in speed"),
}


def help_text() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: narspeech COMMAND [OPTIONS]\n\n"
        "Non-autoregressive speech recognition and translation.\n\n"
        f"commands:\n{rows}\n\n"
        "options:\n  -h, --help     show this text; `narspeech COMMAND --help` shows a command's options\n"
        "  -V, --version  show the version\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 everything done; 1 a part failed or the system refused to read or write; 2 bad usage or input; 130 interrupted;
    141 the reader of the output went away.
    """
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # a closed pipe or a full disk must show here, not while the interpreter shuts down
        return code
    except NarspeechError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # half of a surrogate pair, which no output takes
            raise
        lacking = f"one of {error.encoding}, which lacks {error.object[error.start]!a}"
        return _complain(
            f"expected an output that takes every character, received {lacking}: set PYTHONIOENCODING=utf-8", 1
        )
    except OSError as error:
        _silence_stdout()
        return _complain(str(error), 1)


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(help_text(), end="", file=sys.stderr)
        return 2
    first, rest = argv[0], argv[1:]
    if first in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    if first in ("-V", "--version"):
        print(f"narspeech {__version__}")
        return 0
    if first not in COMMANDS:
        close = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `narspeech --help`"
        return _complain(f"expected a command ({', '.join(COMMANDS)}), received {first!r}: {hint}", 2)
    keep_freed_memory()
    code: int = import_module(COMMANDS[first].module).main(rest)
    return code


def _complain(message: str, code: int) -> int:
    complain(message)
    return code


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush does not fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # a stand-in without a file descriptor has no last flush to fear


if __name__ == "__main__":
    sys.exit(main())
