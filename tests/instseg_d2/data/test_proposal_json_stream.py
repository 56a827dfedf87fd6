"""The list that is read piece by piece is the one that ``json.load`` reads."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instseg_d2.data import json_stream
from instseg_d2.data.json_stream import iter_json_list

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda parts: (
        st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=4), parts, max_size=4)
    ),
    max_leaves=8,
)
SPACES = st.sampled_from(["", " ", "\n\t ", "\r\n" * 4])


def read(text, chunk):
    return list(iter_json_list(io.StringIO(text), chunk))


@settings(max_examples=120)
@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans(),
       SPACES, SPACES)  # fmt: skip
def test_any_list_in_pieces_of_any_length(values, chunk, indent, ascii_only, before, after):
    text = before + json.dumps(values, indent=indent, ensure_ascii=ascii_only) + after
    # NaN is equal to nothing, so that texts are compared.
    assert repr(read(text, chunk)) == repr(json.loads(text))


@settings(max_examples=200)
@given(st.lists(VALUES, max_size=3), st.integers(1, 5), st.data())
def test_damaged_text_is_refused_exactly_when_json_refuses_it(values, chunk, data):
    text = json.dumps(values)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        inserted = data.draw(st.sampled_from([*',[]{}":1.e- x', ""]))
        text = text[:place] + inserted + text[place + (not inserted) :]
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    if isinstance(expected, list):
        assert repr(read(text, chunk)) == repr(expected)
    else:
        with pytest.raises(ValueError, match="at character"):
            read(text, chunk)


@pytest.mark.parametrize("cut", range(1, 34))
def test_text_that_ends_too_early_gives_what_is_whole_and_then_an_error(cut):
    text = '[{"a": "é]"}, [1, 2], 3.5, "x" , 17]'
    given = []
    with pytest.raises(ValueError, match="at character"):
        given.extend(iter_json_list(io.StringIO(text[:cut]), 4))
    assert given == json.loads(text)[: len(given)]
    assert len(given) == sum(end < cut for end in (12, 20, 25, 31))


def test_the_error_says_where():
    text = "[1, 2,\n" + " " * 50 + "x]"
    with pytest.raises(ValueError, match=f"at character {text.index('x')}"):
        read(text, 3)


def test_deep_nesting_is_an_error_and_no_crash():
    with pytest.raises(ValueError, match="nested"):
        read("[" * 100_000, 1000)


def test_a_damaged_element_is_not_searched_to_the_end_of_the_file(monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 1000)
    file = io.StringIO('[1, "no end' + "x" * 1_000_000)
    with pytest.raises(ValueError, match="Unterminated"):
        list(iter_json_list(file, 100))
    assert file.tell() < 10_000


def test_only_a_little_is_read_ahead():
    file = io.StringIO(json.dumps([list(range(10))] * 1000))
    elements = iter_json_list(file, 64)
    next(elements)
    assert file.tell() <= 128
