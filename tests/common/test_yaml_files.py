"""YAML files read into structs: every complaint has its line, and a small file cannot fill the memory."""

import os
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from ktask.common.yaml_files import LARGEST_BYTES, Document, read_named


class Part(Struct, frozen=True):
    """An entry."""

    size: Annotated[float, Meta(ge=1, le=100, extra={"units": {"": "1", "k": "10"}, "noun": "bytes"})]
    tags: Any = None

    def __post_init__(self):
        if self.tags == "odd":
            raise ValueError("tags=odd does not go with a size")


class Whole(Struct, frozen=True):
    """A file."""

    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = {}
    count: Annotated[int, Meta(ge=0, le=9)] = 0


def read(text):
    return Document(text, "f.yaml").read(Whole, "the file")


def test_values_become_fields_with_their_units_and_defaults():
    found = read("parts: [{size: 1.5k}, {size: '2', tags: [a, {b: 1}]}]\nby_name: {x: {size: 3}}\ncount: 4.0")
    assert found == Whole((Part(15.0), Part(2.0, ["a", {"b": 1}])), {"x": Part(3.0)}, 4)
    assert read("{}") == Whole()


BOMB = "[&a [x, x, x, x, x, x, x, x, x], " + ", ".join(
    f"&{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts:\n- {size: 1}\n- {size: 0}", "line 3: size=0 is not allowed; use bytes from 1 to 100"),
        ("parts:\n- {size: 1}\n- {size: 11k}", "line 3: size=11k is not allowed"),
        ("parts:\n- {size: 2q}", "line 2: size=2q is not allowed"),
        ("by_name:\n  x: {size: 1}\n  y: {}", "line 3: key size of by_name y is missing; give bytes from 1"),
        ("by_name: {x: {size: 1}, x: {size: 2}}", "line 1: key 'x' of by_name appears twice"),
        ("parts:\n- size: 1\n  tags: odd", "line 3: tags=odd does not go with a size"),
        ("count: 1.5", "line 1: count=1.5 is not allowed; use a whole number from 0 to 9"),
        ("\n\ncount: true", "line 3: count=true is not allowed"),
        ("counts: 1", "line 1: key 'counts' of the file is unknown; use the keys parts, by_name, count"),
        ("parts: [{size: 1, tags: " + BOMB + "]}]", "tags is too deep or has too many values"),
        ("parts: [{size: 1, tags: [" + "1," * 20_001 + "]}]", "line 1: too much; use at most 20000 values"),
        (
            "count: &a 1\ntags: [" + "*a," * 101 + "]",
            "line 2: too much; use at most 20000 values",
        ),
        (
            "count: " + "[" * 300 + "]" * 300,
            "line 1: too much; use at most",
        ),
        (
            "\ncount: " + "9" * 10_001,
            "line 2: too much; use at most",
        ),
        ("count: " + "9" * 5_000, "line 1: count=9999"),
        ("count: 2001-99-99", "line 1: count=2001-99-99 is not allowed; use quotes around it"),
        ("parts: [{size: 1, tags: &a [*a]}]", "tags is too deep or has too many values"),
        ("count: !!python/object/apply:os.getpid []", "line 1: count=a list or mapping is not allowed"),
        ("count: !!python/name:os.getpid x", "line 1: count=x is not allowed"),
        ("count: [", "cannot be read, not YAML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, message):
    with pytest.raises(ValueError) as caught:
        read(text)
    assert str(caught.value).startswith("f.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_check_after_reading_is_told_with_the_line_of_its_entry():
    document = Document("parts:\n- {size: 1}\n- {size: 2}", "f.yaml")
    part = document.read(Whole, "the file").parts[1]
    with pytest.raises(ValueError, match=r"f.yaml, line 3: too small"), document.at(part):
        raise ValueError("too small")


def test_a_large_file_is_not_read(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b" " * (LARGEST_BYTES + 1))
    for name in ("x", tmp_path / "x.yaml"):
        with pytest.raises(ValueError, match=r"^thing .*x\.yaml has 262145 bytes, more than 262144"):
            read_named("thing", name, tmp_path)


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=f"^thing {path} is not a regular file"):
            read_named("thing", path, tmp_path)
