"""speechocean762: hard, accented English, with the small models of the LibriSpeech recipe.

narspeech run recipes/speechocean762/recipe.py:small_mask_ctc --data DIR --out DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from narspeech.cli import main
from narspeech.profile import Recipe, Source, command, load_file

librispeech = load_file(Path(__file__).parents[1] / "librispeech" / "recipe.py")
prepare = load_file(Path(__file__).with_name("prepare.py")).prepare

SOURCE = Source("speechocean762", prepare, train=("train",), test=("test", "test-unseen"))


def warm() -> Recipe:
    """Letters first: the start of `small_ctc` and `small_mask_ctc`, see LibriSpeech's `warm`."""
    return Recipe((SOURCE._replace(test=()),), librispeech.warm().config)


def small_ctc() -> Recipe:
    """CTC alone. Start it from `warm`."""
    return Recipe((SOURCE,), librispeech.mini_ctc().config)


def small_mask_ctc() -> Recipe:
    """Mask-CTC. Start it from `warm`, or from an English model."""
    return Recipe((SOURCE,), librispeech.mini_mask_ctc().config)


PROFILES = {profile.__name__: profile for profile in (warm, small_ctc, small_mask_ctc)}

if __name__ == "__main__":
    sys.exit(main(command(__file__, sys.argv[1:])))
