"""A translation run of seconds: any profile's settings made tiny."""

LAYER = {"width": 16, "heads": 2, "feed_forward": 32, "dropout": 0.0}
TINY = {
    "tokenizer.size": 24,
    "model.frontend.width": 16,
    "model.encoder.depth": 2,
    "model.decoder.depth": 1,
    **{f"model.{part}.{name}": value for part in ("encoder", "decoder") for name, value in LAYER.items()},
    "data.held_out": 4,
    "train.epochs": 1,
    "train.max_seconds": 120,
    "train.threads": 1,
    "train.log_every": 1,
    "decode.steps": "2",
    "decode.beams": "1,2",
    "decode.teacher_beam": 2,
}


def words(**others: object) -> list[str]:
    """The command line's words for these settings, and for others, whose dots are written as two underscores."""
    settings = {**TINY, **{name.replace("__", "."): value for name, value in others.items()}}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]
