"""Configurations go to plain dicts and back unchanged, and a wrong name, kind or type is told in one sentence."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narspeech.config import from_dict, override, to_dict, to_json
from narspeech.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Encoder:
    kind: ClassVar[str] = "conformer"
    depth: int = 12
    dropout: float = 0.1
    taps: tuple[int, ...] = (6, 12)
    norm: Literal["batch", "layer"] = "layer"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"expected depth of at least 1, received {self.depth}; raise it")


@dataclass(frozen=True, kw_only=True)
class CTC:
    kind: ClassVar[str] = "ctc"


@dataclass(frozen=True, kw_only=True)
class Head:
    width: int = 8
    name: str = "head"


@dataclass(frozen=True, kw_only=True)
class MaskCTC:
    kind: ClassVar[str] = "mask_ctc"
    depth: int = 6
    weight: float
    head: Head = field(default_factory=Head)


@dataclass(frozen=True, kw_only=True)
class Whole:
    encoder: Encoder = field(default_factory=Encoder)
    decoder: CTC | MaskCTC = field(default_factory=CTC)
    extra: MaskCTC | None = None
    heads: tuple[Head, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    pair: tuple[int, float] = (1, 0.5)
    name: str = "whole"
    limit: int | None = None
    label: str | None = None
    window: int | Literal["all"] = "all"
    mixed: str | int | float = ""
    cached: bool = False
    folder: Path = Path("data")


def configs() -> st.SearchStrategy[Whole]:
    floats = st.floats(allow_nan=False)
    head = st.builds(Head, width=st.integers(), name=st.text())
    mask = st.builds(MaskCTC, depth=st.integers(), weight=floats, head=head)
    return st.builds(
        Whole,
        encoder=st.builds(Encoder, depth=st.integers(1), dropout=floats, taps=st.lists(st.integers()).map(tuple)),
        decoder=st.one_of(st.just(CTC()), mask),
        extra=st.one_of(st.none(), mask),
        heads=st.lists(head, max_size=3).map(tuple),
        sizes=st.dictionaries(st.text(), st.integers(), max_size=3),
        pair=st.tuples(st.integers(), floats),
        name=st.text(),
        limit=st.none() | st.integers(),
        label=st.none() | st.text(),
        window=st.integers() | st.just("all"),
        mixed=st.text() | st.integers() | floats,
        cached=st.booleans(),
    )


@given(configs())
def test_a_config_survives_json(config: Whole) -> None:
    assert from_dict(Whole, json.loads(to_json(config))) == config
    assert override(config, {}) == config


def test_the_kind_is_written_first() -> None:
    plain = to_dict(Whole(decoder=MaskCTC(weight=0.3)))
    assert list(plain["decoder"]) == ["kind", "depth", "weight", "head"]  # type: ignore[call-overload]
    assert plain["encoder"] == {
        "kind": "conformer", "depth": 12, "dropout": 0.1, "taps": [6, 12], "norm": "layer"
    }  # fmt: skip
    assert "kind" not in plain


def test_defaults_fill_what_is_left_out_and_ints_become_floats() -> None:
    config = from_dict(Whole, {"decoder": {"kind": "mask_ctc", "weight": 1}, "folder": "x"})
    assert config == Whole(decoder=MaskCTC(weight=1.0), folder=Path("x"))
    assert isinstance(config.decoder, MaskCTC)
    assert type(config.decoder.weight) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"enoder": {}}, r"^expected a name in model to be one of encoder.*received 'enoder'; did you mean encoder\?$"),
        ({"encoder": {"dept": 1}}, r"a name in model\.encoder .* did you mean depth\?"),
        ({"decoder": {"kind": "mask_ctx"}}, r"model\.decoder\.kind to be one of ctc, mask_ctc, .*mean mask_ctc\?"),
        ({"decoder": {}}, r"model\.decoder\.kind to be one of ctc, mask_ctc, received None"),
        ({"decoder": {"kind": "mask_ctc"}}, r"a value for model\.decoder\.weight, received none"),
        ({"encoder": {"kind": "rnn"}}, r"model\.encoder\.kind to be one of conformer"),
        ({"encoder": {"depth": 0}}, r"^model\.encoder: expected depth of at least 1"),
        ({"encoder": {"depth": 1.0}}, r"model\.encoder\.depth to be int, received '1.0' \(float\)"),
        ({"encoder": {"depth": True}}, r"to be int, received 'True' \(bool\)"),
        ({"encoder": {"depth": "1"}}, r"to be int, received '1' \(str\)"),
        ({"encoder": {"dropout": False}}, r"to be float"),
        ({"encoder": {"dropout": 10**400}}, r"to be float"),
        ({"encoder": {"taps": 6}}, r"model\.encoder\.taps to be tuple of int"),
        ({"encoder": {"taps": "6,12"}}, r"model\.encoder\.taps to be tuple of int"),
        ({"encoder": {"taps": [6, "12"]}}, r"model\.encoder\.taps\[1\] to be int"),
        ({"encoder": {"norm": "bach"}}, r"model\.encoder\.norm to be one of batch, layer, .* did you mean batch\?"),
        ({"encoder": 3}, r"model\.encoder to be a set of named values"),
        ({"pair": [1]}, r"model\.pair to hold 2 values"),
        ({"sizes": {"a": "b"}}, r"model\.sizes\.a to be int"),
        ({"sizes": {1: 2}}, r"model\.sizes to be dict\[str, int\]"),
        ({"limit": "12"}, r"model\.limit to be int, received '12'"),
        ({"window": "some"}, r"model\.window to be int \| typing\.Literal\['all'\]"),
        ({"cached": 1}, r"model\.cached to be bool"),
        ({"name": None}, r"model\.name to be str"),
        ({1: 2}, r"received 1"),
    ],
)
def test_a_wrong_dict_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Whole, data, where="model")


@pytest.mark.parametrize("data", [None, [], "x"])
def test_only_a_mapping_is_a_configuration(data: Any) -> None:
    with pytest.raises(ConfigError, match="the configuration to be a set of named values"):
        from_dict(Whole, data)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoder.depth": "3"}, Whole(encoder=Encoder(depth=3))),
        ({"encoder.depth": 3, "encoder.dropout": "1e-2"}, Whole(encoder=Encoder(depth=3, dropout=0.01))),
        ({"encoder.taps": "1, 2"}, Whole(encoder=Encoder(taps=(1, 2)))),
        ({"encoder.taps": "[1, 2]"}, Whole(encoder=Encoder(taps=(1, 2)))),
        ({"encoder.taps": "7"}, Whole(encoder=Encoder(taps=(7,)))),
        ({"encoder.taps": "7,"}, Whole(encoder=Encoder(taps=(7,)))),
        ({"encoder.taps": ""}, Whole(encoder=Encoder(taps=()))),
        ({"encoder.taps": [3]}, Whole(encoder=Encoder(taps=(3,)))),
        ({"encoder.norm": "batch"}, Whole(encoder=Encoder(norm="batch"))),
        ({"encoder": '{"depth": 2}'}, Whole(encoder=Encoder(depth=2))),
        ({"encoder": Encoder(depth=2), "encoder.norm": "batch"}, Whole(encoder=Encoder(depth=2, norm="batch"))),
        ({"decoder.kind": "mask_ctc", "decoder.weight": "0.5"}, Whole(decoder=MaskCTC(weight=0.5))),
        (
            {"decoder.head.width": "2", "decoder.weight": 1, "decoder.kind": "mask_ctc"},
            Whole(decoder=MaskCTC(weight=1.0, head=Head(width=2))),
        ),
        ({"decoder": '{"kind": "mask_ctc", "weight": 2}'}, Whole(decoder=MaskCTC(weight=2.0))),
        ({"extra.weight": "2"}, Whole(extra=MaskCTC(weight=2.0))),
        ({"heads": '[{"width": 1}, {}]'}, Whole(heads=(Head(width=1), Head()))),
        ({"sizes.a": "4"}, Whole(sizes={"a": 4})),
        ({"sizes": '{"b": 1}', "sizes.a": "4"}, Whole(sizes={"a": 4, "b": 1})),
        ({"pair": "3,4"}, Whole(pair=(3, 4.0))),
        ({"limit": "5"}, Whole(limit=5)),
        ({"label": "12"}, Whole(label="12")),
        ({"name": "none"}, Whole(name="none")),
        ({"window": "5"}, Whole(window=5)),
        ({"window": "all"}, Whole()),
        ({"mixed": "12"}, Whole(mixed=12)),
        ({"mixed": "1.5"}, Whole(mixed=1.5)),
        ({"mixed": "x"}, Whole(mixed="x")),
        ({"cached": "True"}, Whole(cached=True)),
        ({"folder": "a/b"}, Whole(folder=Path("a/b"))),
    ],
)
def test_override(changes: dict[str, object], expected: Whole) -> None:
    config = Whole()
    assert override(config, changes) == expected
    assert config == Whole()


def test_none_clears_an_optional_field() -> None:
    config = Whole(limit=3, label="x", extra=MaskCTC(weight=1.0))
    assert override(config, {"limit": "none", "label": "None", "extra": "none"}) == Whole()
    assert override(config, {"limit": None, "label": None, "extra": None}) == Whole()


def test_the_same_kind_keeps_the_other_fields_and_another_forgets_them() -> None:
    config = Whole(decoder=MaskCTC(weight=0.7, depth=2))
    assert override(config, {"decoder.kind": "mask_ctc"}) == config
    switched = override(config, {"decoder.kind": "ctc"})
    assert switched == Whole()
    back = override(switched, {"decoder.kind": "mask_ctc", "decoder.weight": "1"})
    assert back == replace(config, decoder=MaskCTC(weight=1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.dept": "1"}, r"a name in encoder .* did you mean depth\?"),
        ({"enc.depth": "1"}, r"a name in the configuration .*received 'enc'"),
        ({"encoder.depth": "many"}, r"encoder\.depth to be int, received 'many'"),
        ({"encoder.depth": "1.5"}, r"encoder\.depth to be int"),
        ({"encoder.depth": "0"}, r"encoder: expected depth of at least 1"),
        ({"encoder.depth.more": "0"}, r"encoder\.depth to be set as a whole, received encoder\.depth\.more"),
        ({"encoder.taps": "1,,2"}, r"encoder\.taps\[1\] to be int"),
        ({"encoder.taps": "[1"}, r"encoder\.taps as JSON"),
        ({"encoder.norm": "group"}, r"encoder\.norm to be one of batch, layer"),
        ({"encoder": "big"}, r"encoder as JSON, received 'big'; set its parts by their dotted names"),
        ({"encoder.kind": "rnn"}, r"encoder\.kind to be one of conformer"),
        ({"decoder": "ctc"}, r"decoder as JSON"),
        ({"decoder.kind": "mask"}, r"decoder\.kind to be one of ctc, mask_ctc, .*did you mean mask_ctc\?"),
        ({"decoder.kind": "mask_ctc"}, r"a value for decoder\.weight, received none"),
        ({"decoder.weight": "1"}, r"a name in decoder"),
        ({"decoder.weight": "1", "decoder": "none"}, r"decoder as JSON"),
        ({"cached": "yes"}, r"cached to be bool"),
        ({"limit": "few"}, r"limit to be int, received 'few'"),
        ({"pair": "1"}, r"pair to hold 2 values"),
        ({"kind": "x"}, r"received 'kind'"),
    ],
)
def test_a_wrong_override_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Whole(), changes)


@dataclass(frozen=True, kw_only=True)
class Plain:
    kind: str = "an ordinary field"
    anything: Any = None


def test_a_field_may_be_called_kind() -> None:
    assert to_dict(Plain()) == {"kind": "an ordinary field", "anything": None}
    assert override(Plain(), {"kind": "other", "anything": [1]}) == Plain(kind="other", anything=[1])
    with pytest.raises(ConfigError, match="expected anything to be a plain value"):
        to_dict(Plain(anything={1, 2}))


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    items: list[int]


def test_a_type_that_is_not_supported_is_told() -> None:
    with pytest.raises(ConfigError, match=r"items to have a type that JSON can hold, received list\[int\]"):
        from_dict(Unsupported, {"items": [1]})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([item.name for item in fields(Whole)]), values)
def test_any_json_gives_a_config_or_a_config_error(name: str, value: object) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(from_dict(Whole, {name: value}), Whole)
    with contextlib.suppress(ConfigError):
        assert isinstance(override(Whole(), {name: value}), Whole)
