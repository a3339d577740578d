"""What is encoded is decoded bit by bit; what is not a message is refused and nothing else."""

import dataclasses
from typing import Annotated

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedtl.wire import (
    Message,
    Tensor,
    WireError,
    checked_size,
    decode,
    encode,
    encoded_size,
    message,
)

DTYPES = ["bool", "uint8", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@message("test.nothing/1")
class Nothing(Message):
    """No field at all."""


@message("test.scalars/1")
class Scalars(Message):
    count: int
    ratio: float
    flag: bool
    text: str


@message("test.one_of_each/1")
class OneOfEach(Message):
    text: str
    a: Annotated[np.ndarray, Tensor("bool", ("rows",))]
    b: Annotated[np.ndarray, Tensor("uint8", ("rows", 3))]
    c: Annotated[np.ndarray, Tensor("int32", ())]
    d: Annotated[np.ndarray, Tensor("uint32", ("k", "rows"))]
    e: Annotated[np.ndarray, Tensor("int64", ("k", "k"))]
    f: Annotated[np.ndarray, Tensor("uint64", ("other",))]
    g: Annotated[np.ndarray, Tensor("float32", ("rows", "k", "other"))]
    h: Annotated[np.ndarray, Tensor("float64", (0, "other"))]


@message("test.any_float/1")
class AnyFloat(Message):
    x: Annotated[np.ndarray, Tensor("float64", ("rows", "columns"), finite=False)]
    y: Annotated[np.ndarray, Tensor("float32", ("rows",), finite=False)]


@message("test.one_kind/1")
class OneKind(Message):
    x: Annotated[np.ndarray, Tensor("float64", ("rows", "columns"))]


# Lone surrogates too: a str may hold them.
texts = st.text(st.characters(exclude_categories=()), max_size=60)
scalars = st.builds(
    Scalars,
    count=st.integers(-(2**63), 2**63 - 1),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    text=texts,
)


@st.composite
def arrays_of(draw, schema):
    """Draw a message with arrays of all lengths from zero on, its named axes kept."""
    lengths = {name: draw(st.integers(0, 3)) for name in ["rows", "k", "other", "columns"]}
    values = {}
    for name, declared in schema.schema.items():
        if declared is str:
            values[name] = draw(texts)
            continue
        shape = tuple(lengths.get(axis, axis) for axis in declared.shape)
        dtype, elements = np.dtype(declared.dtype), {}
        if dtype.kind == "f":
            elements = {"allow_nan": not declared.finite, "allow_infinity": not declared.finite}
        values[name] = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **elements)))
    return schema(**values)


messages = st.one_of(st.just(Nothing()), scalars, arrays_of(OneOfEach), arrays_of(AnyFloat))


def assert_same(one, other):
    """Compare field by field, arrays bit by bit."""
    assert type(one) is type(other)
    for name in one.schema:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert type(mine) is type(theirs)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            assert mine.tobytes() == theirs.tobytes()
        else:
            assert repr(mine) == repr(theirs)  # tells -0.0 from 0.0


@settings(max_examples=150, deadline=None)
@given(messages)
def test_any_declared_message_comes_back_bit_by_bit(sent):
    assert_same(decode(encode(sent)), sent)


@settings(max_examples=100, deadline=None)
@given(messages)
def test_the_size_is_known_without_encoding(sent):
    assert encoded_size(sent) == len(encode(sent))


@settings(max_examples=60, deadline=None)
@given(arrays_of(OneOfEach))
def test_an_encoded_message_is_a_safetensors_file(sent):
    tensors = safetensors.numpy.load(encode(sent))
    assert set(tensors) == set("abcdefgh")
    for name, tensor in tensors.items():
        assert tensor.dtype == getattr(sent, name).dtype
        assert tensor.shape == getattr(sent, name).shape
        assert tensor.tobytes() == getattr(sent, name).tobytes()


@pytest.mark.parametrize(
    "value",
    [
        np.sin(np.arange(24.0)).reshape(6, 4).T,
        np.sin(np.arange(48.0)).reshape(8, 6)[::2, ::-2],
        np.asfortranarray(np.sin(np.arange(24.0)).reshape(6, 4)),
        np.broadcast_to(np.arange(3.0), (5, 3)),
        np.zeros((0, 7))[:, ::-1],
        np.arange(12.0).reshape(3, 4).view(np.recarray),
    ],
    ids=["transposed", "strided", "fortran", "broadcast", "empty", "subclass"],
)
def test_the_layout_of_an_array_in_memory_does_not_show(value):
    sent = AnyFloat(x=value, y=np.zeros(len(value), np.float32))
    assert encoded_size(sent) == len(encode(sent))
    np.testing.assert_array_equal(decode(encode(sent)).x, value)


def test_extreme_values_survive():
    sent = Scalars(count=-(2**63), ratio=5e-324, flag=False, text='\0\ud800\U0010ffff"\\ä')
    assert_same(decode(encode(sent)), sent)
    info = np.finfo(np.float64)
    x = np.array([[info.max, info.tiny, -0.0, np.inf, -np.inf, np.nan, 5e-324]])
    sent = AnyFloat(x=x, y=np.array([np.finfo(np.float32).smallest_subnormal]))
    assert_same(decode(encode(sent)), sent)


@pytest.mark.parametrize("name", list("abdefg"))
def test_what_was_decoded_cannot_be_written_to(name):
    lengths = {"rows": 2, "k": 2, "other": 2}
    values = {
        field: np.ones([lengths.get(axis, axis) for axis in declared.shape], declared.dtype)
        for field, declared in OneOfEach.schema.items()
        if field != "text"
    }
    tensor = getattr(decode(encode(OneOfEach(text="", **values))), name)
    assert not tensor.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tensor[...] = 0
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        tensor.flags.writeable = True


def test_encoding_is_deterministic_and_says_nothing_of_python():
    sent = Scalars(count=1, ratio=2.0, flag=True, text="x")
    assert encode(sent) == encode(sent)
    assert b"Scalars" not in encode(sent)
    assert b"test.scalars/1" in encode(sent)


def test_an_int_that_cannot_be_written_breaks_the_schema():
    with pytest.raises(WireError):
        encode(Scalars(count=10**5000, ratio=0.0, flag=True, text=""))


def test_a_message_that_is_sent_again_is_as_large_as_before_and_its_copy_is_checked_anew():
    sent = OneKind(x=np.zeros((3, 1)))
    assert checked_size(sent) == checked_size(sent) == len(encode(sent))
    with pytest.raises(WireError, match="NaN"):
        checked_size(dataclasses.replace(sent, x=np.full((3, 1), np.nan)))


def test_a_header_that_came_before_is_held_against_the_bytes_that_come_now():
    # Headers are parsed once: a wrong length, or another message's values, would pass unseen.
    one, other = (OneKind(x=np.full((2, 3), value)) for value in (1.0, 2.0))
    for sent in (one, other, one):
        assert_same(decode(encode(sent)), sent)
    for wrong in (encode(one)[:-8], encode(one) + bytes(8)):
        with pytest.raises(WireError, match="truncated, or bytes"):
            decode(wrong)
    with pytest.raises(WireError, match="NaN"):
        decode(encode(one)[:-8] + np.array([np.nan]).tobytes())
