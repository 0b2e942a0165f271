"""YAML files read into typed structs; what is wrong is said with file, line, value and what is allowed.

A struct says it all: keys are its fields, defaults its defaults, bounds those of `msgspec.Meta`. A field's
`Meta(extra=...)` may have `units` (factor by suffix, so that "50us" is a number), a `noun` and an `example`
for messages, or the whole text of what is `allowed`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from reprlib import Repr
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import yaml
from msgspec import structs
from msgspec.inspect import FloatType, IntType, LiteralType, Metadata, StrType, Type, type_info

from ktask.common.files import read_text

LARGEST_BYTES = 1 << 18
MOST_VALUES = 20_000  # a small file can hold more, by aliases of aliases
MOST_ALIASES = 100
LONGEST_VALUE = 10_000  # characters
DEEPEST = 20
LONGEST = 400  # message about values in a file
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def named_files(folder: Path) -> dict[str, Path]:
    """Return the YAML files of a folder by their names."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_named(kind: str, name: str | Path, folder: Path) -> tuple[str, str]:
    """Return the text and the stem of a file: one of `folder` by its name, else by its path.

    Raises
    ------
    ValueError
        If there is none, or it is no text of at most `LARGEST_BYTES`.
    """
    known = named_files(folder)
    path = known.get(str(name), Path(name))
    try:
        return read_text(path, LARGEST_BYTES), path.stem
    except FileNotFoundError:
        raise ValueError(f"{kind} {str(name)!r} is neither a file nor one of {', '.join(known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{kind} {name}: cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{kind} {error}") from None


class TooMuchError(ValueError):
    """A file has more in it than anybody writes by hand."""


class _Loader(yaml.SafeLoader):
    """Stops at what is too much before it takes time or memory."""

    values = aliases = depth = 0
    most_values = MOST_VALUES

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node."""
        event = self.peek_event()
        self.values += 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        is_long = len(getattr(event, "value", None) or "") > LONGEST_VALUE
        if self.values > self.most_values or self.aliases > MOST_ALIASES or self.depth >= DEEPEST or is_long:
            raise TooMuchError(
                f"line {event.start_mark.line + 1}: too much; use at most {self.most_values} values, "
                f"{MOST_ALIASES} aliases, {DEEPEST} levels and {LONGEST_VALUE} characters per value"
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _LoaderOfMany(_Loader):
    """Reads what a program has written out."""

    most_values = 1_000_000


def load_plain(text: str) -> Any:
    """Return the content of a YAML file that a program wrote: texts, numbers, lists and mappings.

    Raises
    ------
    ValueError
        If it is not YAML, or holds something else, such as a set or a date.
    """
    try:
        content = yaml.load(text, _LoaderOfMany)  # noqa: S506  (a safe loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
    _require_plain(content)
    return content


def _require_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                raise ValueError(f"key {_SHORT.repr(key)} is not allowed; use a text")
            _require_plain(one)
    elif isinstance(value, list):
        for one in value:
            _require_plain(one)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{_SHORT.repr(value)} is not allowed; use a text, a number, a list or a mapping")


class Document:
    """The text of a YAML file; `where` starts every message."""

    def __init__(self, text: str, where: str):
        self.where = where
        self._lines: dict[int, int] = {}
        self._left = MOST_VALUES
        try:
            self._root = yaml.compose(text, Loader=_Loader)
        except TooMuchError as error:
            raise ValueError(f"{where}, {error}") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{where}: cannot be read, not YAML: {' '.join(str(error).split())}") from None

    def read(self, struct: type[_Struct], what: str) -> _Struct:
        """Return the content as a struct; ValueError names the line.

        A check in `__post_init__` whose message starts with `key=` gets the line of that key.
        """
        return self._struct(self._root, struct, what, 0)

    @contextmanager
    def at(self, made: msgspec.Struct) -> Iterator[None]:
        """Add the line of a struct of this file to an error about it."""
        try:
            yield
        except (ValueError, TypeError) as error:
            message = str(error) if len(str(error)) <= LONGEST else f"{str(error)[:LONGEST]} ..."
            raise self._error(self._lines[id(made)], message) from None

    def _error(self, line: int, message: str) -> ValueError:
        return ValueError(f"{self.where}, line {line}: {message}")

    def _struct(self, node: yaml.Node | None, struct: type[_Struct], what: str, depth: int) -> _Struct:
        fields = {field.encode_name: field for field in structs.fields(struct)}
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in self._pairs(node, what, fields).items():
            lines[key] = _line(value)
            values[fields[key].name] = self._value(value, key, fields[key].type, depth + 1)
        for key, field in fields.items():
            if field.required and field.name not in values:
                raise self._error(_line(node), f"key {key} of {what} is missing; give {allowed(field.type)}")
        try:
            made = struct(**values)
        except ValueError as error:
            raise self._error(lines.get(str(error).partition("=")[0], _line(node)), str(error)) from None
        self._lines[id(made)] = _line(node)
        return made

    def _pairs(self, node: yaml.Node | None, what: str, keys: Collection[str] | None) -> dict[str, yaml.Node]:
        """Return the values of a mapping by their keys; `keys` are those known, None if all are welcome."""
        names = "any keys" if keys is None else f"the keys {', '.join(keys)}"
        if not isinstance(node, yaml.MappingNode):
            raise self._error(_line(node), f"{what} is {_shown(node)}; it must be a mapping with {names}")
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = str(key_node.value)
            unknown = not isinstance(key_node, yaml.ScalarNode) or (keys is not None and key not in keys)
            if unknown or key in found:
                problem = f"is unknown; use {names}" if unknown else "appears twice; use it once"
                raise self._error(_line(key_node), f"key {_SHORT.repr(key)} of {what} {problem}")
            found[key] = value
        return found

    def _value(self, node: yaml.Node, key: str, kind: Any, depth: int) -> Any:
        """Return the value of a key: a struct, several of them, or what msgspec makes of plain data."""
        origin, args = get_origin(kind), get_args(kind)
        if _is_struct(kind):
            return self._struct(node, kind, key, depth)
        if origin is dict and _is_struct(args[1]):
            pairs = self._pairs(node, key, None)
            return {name: self._struct(one, args[1], f"{key} {name}", depth) for name, one in pairs.items()}
        if origin is tuple and _is_struct(args[0]):
            if not isinstance(node, yaml.SequenceNode):
                raise self._not_allowed(node, key, allowed(kind))
            return tuple(self._struct(one, args[0], f"an entry of {key}", depth) for one in node.value)
        try:
            return msgspec.convert(_number(self._plain(node, key, depth), type_info(kind)), kind)
        except (msgspec.ValidationError, yaml.YAMLError, OverflowError):
            raise self._not_allowed(node, key, allowed(kind)) from None

    def _not_allowed(self, node: yaml.Node, key: str, use: str) -> ValueError:
        return self._error(_line(node), f"{key}={_shown(node)} is not allowed; use {use}")

    def _plain(self, node: yaml.Node, key: str, depth: int) -> Any:
        """Return a node as plain data, which may be neither deep nor endless."""
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise self._error(
                _line(node), f"{key} is too deep or has too many values, by aliases perhaps; write it out"
            )
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one, key, depth + 1) for one in node.value]
        if isinstance(node, yaml.MappingNode):
            pairs = self._pairs(node, key, None)
            return {name: self._plain(one, key, depth + 1) for name, one in pairs.items()}
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError:  # 2001-99-99 looks like a date
            raise self._not_allowed(node, key, "quotes around it, if it is a text") from None


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node else 1


def _shown(node: yaml.Node | None) -> str:
    """Return a value as the file has it, shortened."""
    if node is None:
        return "empty"
    return _SHORT.repr(node.value).strip("'") if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bare(info: Type) -> tuple[Type, dict[str, Any]]:
    """Return the type of a value, and what `Meta(extra=...)` says about it."""
    return (info.type, info.extra or {}) if isinstance(info, Metadata) else (info, {})


def _number(value: Any, info: Type) -> Any:
    """Return the number that a text such as "8.6GiB" is, if the type is one; other values as they are."""
    bare, extra = _bare(info)
    if not isinstance(bare, FloatType | IntType):
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([a-zµ]*)\s*", value.lower())
        units = extra.get("units", {"": "1"})
        if not match or match[2] not in units:
            return value
        try:
            value = float(Decimal(match[1]) * Decimal(units[match[2]]))
        except ArithmeticError:
            return value
    is_whole = isinstance(bare, IntType) and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def allowed(kind: Any) -> str:
    """Return in words what a field may hold."""
    info, extra = _bare(type_info(kind))
    if "allowed" in extra:
        return extra["allowed"]
    if get_origin(kind) is tuple:
        keys = ", ".join(field.encode_name for field in structs.fields(get_args(kind)[0]))
        return f"a list of mappings with the keys {keys}"
    if isinstance(info, LiteralType):
        return " or ".join(map(str, info.values))
    if not isinstance(info, FloatType | IntType):
        return "a text" if isinstance(info, StrType) else "a value"
    noun = extra.get("noun", "a whole number" if isinstance(info, IntType) else "a number")
    low, high = (text if isinstance(text, int) else f"{text:g}" for text in (info.ge, info.le))
    return f"{noun} from {low} to {high}" + (f", such as {extra['example']}" if "example" in extra else "")


def meaning_of(kind: Any) -> str:
    """Return the description of a field, empty if it has none."""
    info = type_info(kind)
    described = info.extra_json_schema if isinstance(info, Metadata) else None
    return (described or {}).get("description", "")
