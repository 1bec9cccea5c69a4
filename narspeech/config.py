"""Frozen dataclasses to plain dicts and back, and dotted overrides: what config.json holds and the command line sets.

A field may hold None, bool, int, float, str, Path, Literal, tuples, dict[str, X], dataclasses, or a union of these.
The dataclasses of a union tell themselves apart by `kind: ClassVar[str]`; nothing is ever imported by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import types
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from narspeech.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)

_MISSING = dataclasses.MISSING
_hints = functools.cache(get_type_hints)


def to_dict(config: DataclassInstance) -> dict[str, object]:
    """Plain values for `from_dict` and JSON, a dataclass's kind first. Raises ConfigError on any other value."""
    kind = _kind(type(config))
    values = {name: _plain(getattr(config, name), name) for name in _fields(type(config))}
    return values if kind is None else {"kind": kind, **values}


def to_json(config: DataclassInstance) -> str:
    """`to_dict` as indented JSON."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False)


def from_dict(cls: type[Config], data: Mapping[str, object], *, where: str = "") -> Config:
    """The instance of `cls` that `to_dict` wrote as `data`; keys left out take their defaults.

    where: the dotted name to begin error messages with. Raises ConfigError on unknown or missing keys, a wrong kind and
    values of the wrong type; an int passes for a float, a list for a tuple.
    """
    return cast("Config", _record((cls,), data, where))


def override(config: Config, changes: Mapping[str, object]) -> Config:
    """A new instance with the dotted names in `changes` set: {"encoder.depth": "12", "decoder.kind": "ctc"}.

    A string is read by the field's type: true or false, none where None is allowed, a tuple as "1,2" or "[1, 2]",
    a dataclass or dict as JSON; other values are taken as they are. "x.kind" chooses the dataclass, whose other fields
    start from their defaults if that changes it; the order is of no matter. Raises ConfigError as `from_dict` does.
    """
    cls = type(config)
    return cast("Config", _record((cls,), _merge(cls, to_dict(config), changes, ""), ""))


def _plain(value: object, where: str) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, _dotted(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    raise ConfigError(
        f"expected {where} to be a plain value or a dataclass, received {_show(value)}; store its settings instead"
    )


def _merge(annotation: object, current: object, changes: Mapping[str, object], where: str) -> object:
    """`current`, a plain value, after `changes`, whose names are relative to it ("" is itself)."""
    changes = dict(changes)
    if "" in changes:
        # Checked here, where a string can still be read by its type, though from_dict checks all in the end.
        current = _plain(_value(annotation, changes.pop(""), where, parse=True), where)
    if not changes:
        return current
    records, inside = _records(annotation), _dict_type(annotation)
    if records:
        known = dict(current) if isinstance(current, Mapping) else {}
        has_kind = any(map(_kind, records))
        before = known.get("kind") if has_kind else None
        cls = _choose(records, changes.pop("kind", before) if has_kind else None, where)
        values = known if known and before == _kind(cls) else _defaults(cls)
        hints = _hints(cls)
        parts: dict[str, object] = {name: hints[name] for name in _fields(cls)}
    elif inside is not None:
        values = dict(current) if isinstance(current, Mapping) else {}
        parts = {name.partition(".")[0]: inside for name in changes}
    else:
        raise ConfigError(
            f"expected {where} to be set as a whole, received {_dotted(where, min(changes))}; it has no parts"
        )
    grouped: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        grouped.setdefault(head, {})[rest] = value
    _refuse_unknown(grouped, parts, where)
    for name, group in grouped.items():
        values[name] = _merge(parts[name], values.get(name), group, _dotted(where, name))
    return values


def _value(annotation: Any, value: object, where: str, *, parse: bool) -> object:
    """`value` checked against a type and converted to it; a string is read by the type if `parse`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where, parse=parse)
    if records := _records(annotation):
        return _record(records, _from_json(value, where, parse=parse), where)
    if origin is Literal:
        return _literal(arguments, value, where, parse=parse)
    if origin is tuple:
        return _tuple(arguments, value, where, parse=parse)
    if origin is dict:
        value = _from_json(value, where, parse=parse)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(annotation, value, where)
        return {key: _value(arguments[1], item, _dotted(where, key), parse=False) for key, item in value.items()}
    return _scalar(annotation, value, where, parse=parse)


def _scalar(annotation: Any, value: object, where: str, *, parse: bool) -> object:
    if annotation is Any:
        return value
    if annotation not in (types.NoneType, bool, int, float, str, Path):
        raise ConfigError(
            f"expected {where} to have a type that JSON can hold, received {annotation}; a tuple or dict may do"
        )
    if parse and isinstance(value, str):
        value = _from_text(annotation, value)
    is_number = not isinstance(value, bool)  # though Python counts it among the ints
    if annotation is float and isinstance(value, int) and is_number:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if annotation is Path and isinstance(value, str):
        value = Path(value)
    if not isinstance(value, annotation) or (annotation is int and not is_number):
        raise _wrong(annotation, value, where)
    return value


def _from_text(annotation: Any, text: str) -> object:
    """What `text` means for a scalar type, or `text` itself where it means nothing."""
    word = text.strip().lower()
    if annotation is types.NoneType and word in ("none", "null"):
        return None
    if annotation is bool:
        return {"true": True, "false": False}.get(word, text)
    if annotation in (int, float):
        with contextlib.suppress(ValueError):
            return cast("object", annotation(text))
    return text


def _union(members: tuple[Any, ...], value: object, where: str, *, parse: bool) -> object:
    records = _records(Union[members])  # noqa: UP007  # a union of what only the run knows
    others = [member for member in members if member not in records]
    # None goes first, then the exact type; for text, whatever reads more narrowly than str does.
    others.sort(key=lambda member: member in (str, Path) if parse else member is not type(value))
    others.sort(key=lambda member: member is not types.NoneType)
    is_record = isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    is_record |= parse and isinstance(value, str) and value.lstrip().startswith("{")
    if not (records and is_record):
        for member in others:
            try:
                return _value(member, value, where, parse=parse)
            except ConfigError:
                # The only choice beside None: its own complaint says more than ours.
                if len(members) == 2 and others[0] is types.NoneType and member is others[-1] and not records:
                    raise
    if not records:
        raise _wrong(members, value, where)
    return _record(records, _from_json(value, where, parse=parse), where)


def _literal(choices: tuple[object, ...], value: object, where: str, *, parse: bool) -> object:
    for choice in choices:
        if (type(choice) is type(value) and choice == value) or (parse and str(value).strip() == str(choice)):
            return choice
    raise _unknown(where, choices, value)


def _tuple(arguments: tuple[Any, ...], value: object, where: str, *, parse: bool) -> object:
    items = value
    parse = parse and isinstance(value, str)
    if parse and str(value).lstrip().startswith("["):
        items, parse = _from_json(value, where, parse=True), False
    elif parse:
        text = str(value).strip().removesuffix(",")
        items = [item.strip() for item in text.split(",")] if text else []
    if not isinstance(items, list | tuple):
        raise _wrong((f"tuple of {_name(arguments)}",), value, where)
    if arguments[-1:] == (...,):
        arguments = arguments[:1] * len(items)
    if len(items) != len(arguments):
        raise ConfigError(f"expected {where} to hold {len(arguments)} values, received {_show(value)}; give each one")
    return tuple(
        _value(annotation, item, f"{where}[{index}]", parse=parse)
        for index, (annotation, item) in enumerate(zip(arguments, items, strict=True))
    )


def _record(classes: tuple[type[DataclassInstance], ...], data: object, where: str) -> object:
    """The instance of one of `classes` that `data`, a mapping (or already an instance), describes."""
    if type(data) in classes:
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"expected {where or 'the configuration'} to be a set of named values, received {_show(data)}; name each"
        )
    values = dict(data)
    kind = values.pop("kind", None) if any(map(_kind, classes)) else None
    cls = _choose(classes, kind, where)
    hints, fields = _hints(cls), _fields(cls)
    _refuse_unknown(values, fields, where)
    missing = [name for name in fields if name not in values and _default(fields[name]) is _MISSING]
    if missing:
        raise ConfigError(f"expected a value for {_dotted(where, ', '.join(missing))}, received none; add it")
    arguments = {name: _value(hints[name], value, _dotted(where, name), parse=False) for name, value in values.items()}
    try:
        return cls(**arguments)
    except ValueError as error:  # a class's own checks know the value, not where it stands
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def _choose(classes: tuple[type[DataclassInstance], ...], kind: object, where: str) -> type[DataclassInstance]:
    if len(classes) == 1 and kind is None:
        return classes[0]
    kinds = {_kind(cls): cls for cls in classes}
    assert len(kinds) == len(classes), f"the dataclasses of a union need distinct kinds: {classes}"
    if isinstance(kind, str) and kind in kinds:
        return kinds[kind]
    raise _unknown(_dotted(where, "kind"), kinds, kind)


def _kind(cls: type[DataclassInstance]) -> str | None:
    kind = getattr(cls, "kind", None)
    return kind if isinstance(kind, str) and "kind" not in _fields(cls) else None


def _fields(cls: type[DataclassInstance]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is _MISSING else field.default_factory()


def _defaults(cls: type[DataclassInstance]) -> dict[str, object]:
    """The plain defaults of those fields that have one, after the kind."""
    kind = _kind(cls)
    values = {name: _default(field) for name, field in _fields(cls).items()}
    plain = {name: _plain(value, name) for name, value in values.items() if value is not _MISSING}
    return plain if kind is None else {"kind": kind, **plain}


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _records(annotation: Any) -> tuple[type[DataclassInstance], ...]:
    """The dataclasses that a field of this type may hold."""
    found = [member for member in _members(annotation) if dataclasses.is_dataclass(member)]
    return tuple(cast("type[DataclassInstance]", member) for member in found)


def _dict_type(annotation: Any) -> object | None:
    """X of a dict[str, X] (or of one beside None)."""
    return next((get_args(member)[1] for member in _members(annotation) if get_origin(member) is dict), None)


def _from_json(value: object, where: str, *, parse: bool) -> object:
    if not (parse and isinstance(value, str)):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigError(
            f"expected {where} as JSON, received {value!r}; set its parts by their dotted names instead"
        ) from None


def _refuse_unknown(names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise _unknown(f"a name in {where or 'the configuration'}", known, name)


def _unknown(where: str, known: Iterable[object], received: object) -> ConfigError:
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(received), names, n=1)
    hint = f"did you mean {near[0]}?" if near else "choose one of them"
    return ConfigError(
        f"expected {where or 'the value'} to be one of {', '.join(names)}, received {received!r}; {hint}"
    )


def _wrong(annotation: Any, value: object, where: str) -> ConfigError:
    return ConfigError(
        f"expected {where or 'the value'} to be {_name(annotation)}, received {_show(value)}; mend its type"
    )


def _name(annotation: Any) -> str:
    if isinstance(annotation, tuple):
        return " | ".join(map(_name, annotation))
    plain = isinstance(annotation, type) and not get_args(annotation)
    return {"NoneType": "none"}.get(annotation.__name__, annotation.__name__) if plain else str(annotation)


def _show(value: object) -> str:
    return f"{str(value)[:80]!r} ({type(value).__name__})"


def _dotted(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)
