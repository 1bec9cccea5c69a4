"""Store a trained model in half precision: python scripts/bundle.py OUT/final narspeech/models/english"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from narspeech import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="Save a checkpoint folder in half precision.")
    parser.add_argument("source", type=Path, help="a checkpoint folder, such as OUT/final")
    parser.add_argument("target", type=Path, help="where it goes")
    arguments = parser.parse_args()
    model = checkpoint.load(arguments.source)
    checkpoint.save(arguments.target, model, dtype=torch.float16)
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(path.stat().st_size for path in arguments.target.iterdir())
    print(f"{arguments.target}: {parameters:,} parameters, {size:,} bytes")


if __name__ == "__main__":
    main()
