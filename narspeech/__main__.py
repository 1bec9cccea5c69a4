"""`python -m narspeech` is `narspeech`."""

from __future__ import annotations

import sys

from narspeech.cli import main

if __name__ == "__main__":
    sys.exit(main())
