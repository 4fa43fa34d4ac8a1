"""`offload.jobs._codec` under values and JSON that nobody thought of."""

import json
from typing import Any

import pydantic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload.jobs._codec_errors import JobArgumentError
from tests.jobs.codec_types import hinted, plain, same, signature_of, texts

# Strategies of strategies are slow to draw.
slow = settings(deadline=None, suppress_health_check=list(HealthCheck))
near = st.sampled_from(["NaN", "1", "2026-01-01T00:00:00Z", "P1D", "AAAA", "x", "r", "a"])
keys = st.sampled_from(["type", "value", "name", "label", "content", "x", "when", "1"])
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | near,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | keys, inner, max_size=4),
    max_leaves=8,
)
cuts = st.sampled_from(["", '"', "0", "[", "]", "{", "null", "NaN", "1e999", "-", "\\ud800"])


class Loose(pydantic.BaseModel):
    anything: Any
    number: float = 0.0


def argument(text, hint):
    """Return the one argument that JSON holds for a parameter of this type."""
    (value,), keywords = signature_of(hint).decode_arguments(text)
    assert keywords == {}
    return value


@slow
@given(hinted, st.data())
def test_value_comes_back_the_same_or_is_refused(pair, data):
    """What is encoded comes back equal, of the same types, with the same text; or is refused."""
    hint, values = pair
    value = data.draw(values)
    try:
        text = signature_of(hint).encode_arguments((value,), {})
    except JobArgumentError:
        return
    text.encode()
    back = argument(text, hint)
    assert same(back, value)
    assert signature_of(hint).encode_arguments((back,), {}) == text
    assert same(signature_of(hint).decode_result(signature_of(hint).encode_result(value)), value)


@slow
@given(hinted, hinted, st.data())
def test_value_of_another_type_is_kept_or_refused_never_changed(pair, other, data):
    """A value that does not fit the annotation is refused, or comes back as it was."""
    value = data.draw(other[1])
    try:
        text = signature_of(pair[0]).encode_arguments((value,), {})
    except JobArgumentError:
        return
    assert same(argument(text, pair[0]), value)


@slow
@given(hinted, hostile | plain)
def test_foreign_json_is_a_fitting_value_or_refused(pair, data):
    """JSON of anybody's making ends in a value that can be encoded again, or in our error."""
    try:
        value = argument(json.dumps({"value": data}), pair[0])
    except JobArgumentError:
        return
    again = signature_of(pair[0]).encode_arguments((value,), {})
    assert same(argument(again, pair[0]), value)


@slow
@given(hinted, cuts, st.data())
def test_damaged_text_is_read_or_refused(pair, cut, data):
    """A damaged text raises our error and no other."""
    value = data.draw(pair[1])
    try:
        text = signature_of(pair[0]).encode_arguments((value,), {})
    except JobArgumentError:
        return
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        signature_of(pair[0]).decode_arguments(text[:start] + cut + text[end:])
    except JobArgumentError:
        return


@slow
@given(hinted, st.floats(), st.data())
def test_model_comes_back_the_same_or_is_refused(pair, number, data):
    """Whatever a model holds, it is not changed without a word."""
    value = Loose(anything=data.draw(pair[1]), number=number)
    try:
        text = signature_of(Loose).encode_arguments((value,), {})
    except JobArgumentError:
        return
    back = argument(text, Loose)
    assert same(back.anything, value.anything)
    assert same(back.number, value.number)
