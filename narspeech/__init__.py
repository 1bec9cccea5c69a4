"""narspeech: non-autoregressive speech recognition and translation.

    import narspeech
    print(narspeech.transcribe("speech.flac").text)
    print(narspeech.translate("A man sleeps on a couch.", model="OUT/final").text)

The names below are imported when first used, so that `import narspeech` and `narspeech --help` need not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from narspeech.checkpoint import load as load
    from narspeech.inspection.inspector import inspect as inspect
    from narspeech.transcriber import iter_transcribe as iter_transcribe
    from narspeech.transcriber import transcribe as transcribe
    from narspeech.translator import translate as translate

__version__ = "0.1.0"

__all__ = ["__version__", "inspect", "iter_transcribe", "load", "transcribe", "translate"]

_LAZY = {
    "inspect": "narspeech.inspection.inspector",
    "iter_transcribe": "narspeech.transcriber",
    "load": "narspeech.checkpoint",
    "transcribe": "narspeech.transcriber",
    "translate": "narspeech.translator",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'narspeech' has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
