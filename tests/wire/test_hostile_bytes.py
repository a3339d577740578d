"""Bytes from elsewhere decode to a message that keeps its schema, or raise WireError."""

import json
from typing import Annotated

import numpy as np
import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedtl.wire import Limits, Message, Tensor, WireError, check, decode, encode, message


@message("test.target/1")
class Target(Message):
    count: int
    ratio: float
    text: str
    known: Annotated[np.ndarray, Tensor("bool", ("rows",))]
    table: Annotated[np.ndarray, Tensor("float64", ("rows", "columns"))]


SENT = Target(
    count=7, ratio=0.5, text="é", known=np.array([True, False]), table=np.arange(6.0).reshape(2, 3)
)
DATA = encode(SENT)
HEADER = int.from_bytes(DATA[:8], "little")


def refused(data, match=None, limits=None):
    with pytest.raises(WireError, match=match):
        decode(data, limits)


def forged(change=None, metadata=None, body=DATA[8 + HEADER :]):
    """Return the message with a header that `change` has edited or other metadata."""
    header = json.loads(DATA[8 : 8 + HEADER])
    if metadata is not None:
        header["__metadata__"] = {"fedtl": metadata}
    if change is not None:
        header = change(header) or header
    return framed(json.dumps(header).encode(), body)


def framed(header, body=b""):
    return len(header).to_bytes(8, "little") + header + body


def agree(data, received):
    """Hold what was accepted against the safetensors library, which reads it bit by bit alike."""
    theirs = dict(safetensors.deserialize(data))
    assert set(theirs) == {"known", "table"}
    for name, part in theirs.items():
        mine = getattr(received, name)
        assert (list(mine.shape), mine.tobytes()) == (list(part["shape"]), bytes(part["data"]))


def test_the_forge_itself_makes_a_message():
    assert decode(forged()).text == "é"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 8 + HEADER // 2, 8 + HEADER, len(DATA) - 1])
def test_a_truncated_message_is_refused(length):
    refused(DATA[:length])


def test_a_message_with_something_behind_it_is_refused():
    refused(DATA + b"\0")


def test_a_message_may_be_as_long_as_the_limit_and_no_longer():
    assert decode(DATA, Limits(message_bytes=len(DATA))).count == 7
    refused(DATA, "message of .* bytes, at most", Limits(message_bytes=len(DATA) - 1))


def test_a_header_may_be_as_long_as_the_limit_and_no_longer():
    assert decode(DATA, Limits(header_bytes=HEADER)).count == 7
    refused(DATA, "header of .* bytes, at most", Limits(header_bytes=HEADER - 1))


def test_a_header_that_claims_more_than_there_is_is_refused_before_it_is_read():
    refused((2**64 - 1).to_bytes(8, "little") + DATA[8:], "truncated")


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255))
def test_a_flipped_byte_gives_a_checked_message_or_a_wire_error(position, value):
    data = bytearray(DATA)
    data[position] = value
    try:
        received = decode(bytes(data))
    except WireError:
        return
    check(received)
    agree(bytes(data), received)
    assert received.kind in {"test.target/1"}
    assert decode(encode(received)).count == received.count


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"{}" * 20)
def test_random_bytes_are_refused(data):
    refused(data)
    refused(framed(data))
    refused(framed(data, DATA))


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from("BOOL U8 I8 I16 F16 BF16 F8_E5M2 I32 I64 F32 F64 X".split()),
            "shape": st.lists(st.integers(0, 70), max_size=4),
            "data_offsets": st.lists(st.integers(0, 60), min_size=2, max_size=2),
        }
    )
)
def test_a_tensor_that_lies_about_itself_is_refused(lie):
    def change(header):
        header["table"] = lie

    data = forged(change)
    try:
        received = decode(data)
    except WireError:
        return
    check(received)
    agree(data, received)
    assert received.table.nbytes == 48


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(json_values, st.sampled_from(["whole", "metadata", "kind", "scalars", "count", "tensor"]))
def test_any_other_json_in_any_place_gives_a_checked_message_or_a_wire_error(value, place):
    scalars = {"count": 7, "ratio": 0.5, "text": "é"}
    inside = {"kind": "test.target/1", "scalars": scalars}
    if place == "whole":
        data = framed(json.dumps(value).encode(), DATA[8 + HEADER :])
    elif place == "metadata":
        data = forged(metadata=json.dumps(value))
    elif place == "kind":
        data = forged(metadata=json.dumps(inside | {"kind": value}))
    elif place == "scalars":
        data = forged(metadata=json.dumps(inside | {"scalars": value}))
    elif place == "count":
        data = forged(metadata=json.dumps(inside | {"scalars": scalars | {"count": value}}))
    else:
        data = forged(lambda header: {**header, "table": value})
    try:
        received = decode(data)
    except WireError:
        return
    check(received)
    agree(data, received)
    assert type(received.count) is int


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "pickle",
        "[]",
        "null",
        '"kind"',
        '["kind", "scalars"]',
        '{"kind": "test.target/1"}',
        '{"kind": "test.target/1", "scalars": []}',
        '{"kind": "test.target/1", "scalars": {}, "more": 1}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": 0.5}}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": 0.5, "text": "", "a": 1}}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": NaN, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": Infinity, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": 1e999, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": NaN, "ratio": 0.5, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": 7.0, "ratio": 0.5, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": true, "ratio": 0.5, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": 7, "ratio": 1, "text": ""}}',
        '{"kind": "test.target/1", "scalars": {"count": 1' + "0" * 5000 + "}}",
        '{"kind": "test.target/1", "scalars": ' + "[" * 7000,
        '{"kind": "test.target/1", "scalars": {"count": ' + "[" * 3000 + "]" * 3000 + "}}",
    ],
)
def test_metadata_that_declares_no_message_is_refused(metadata):
    refused(forged(metadata=metadata))


@pytest.mark.parametrize("kind", ["test.unknown/1", "test.target/2", "", "x" * 5000, None, [], {}])
def test_an_unknown_kind_is_named_in_part_and_refused(kind):
    with pytest.raises(WireError, match="unknown kind") as error:
        decode(forged(metadata=json.dumps({"kind": kind, "scalars": {}})))
    assert len(str(error.value)) < 150


def test_deeply_nested_headers_are_refused():
    deep = b'{"a":' * 3000 + b"1" + b"}" * 3000
    refused(framed(deep), limits=Limits(header_bytes=len(deep)))
    deep = b"[" * 200_000
    refused(framed(deep), limits=Limits(header_bytes=len(deep)))


TEXT = DATA[8 : 8 + HEADER].decode().rstrip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[0,2]", "[-0,2]"),
        ("[0,2]", "[0.0,2]"),
        ("[0,2]", "[false,2]"),
        ("[0,2]", "[0,2,2]"),
        ("[0,2]", "[0,1]"),
        ("[0,2]", "[1,2]"),
        ("[2,50]", "[0,48]"),
        ("[2,50]", "[3,51]"),
        ("[2,50]", "[2,49]"),
        ("[2,50]", "[50,2]"),
        ('"shape":[2]', '"shape":[-2]'),
        ('"shape":[2]', '"shape":[2e0]'),
        ('"shape":[2]', '"shape":[Infinity]'),
        ('"shape":[2]', '"shape":2'),
        ('"shape":[2]', '"shape":[2' + ",1" * 40 + "]"),
        ('"shape":[2]', '"shape":[2],"more":1'),
        ('"shape":[2]', '"shape":[2],"shape":[2]'),
        ('"dtype":"BOOL"', '"dtype":["BOOL"]'),
        ('"known":', '"table":'),
        ('"known":{', '"known":null,"other":{'),
        ("{", " {"),
        ("{", "\ufeff{"),
        ('"__metadata__":{', '"__metadata__":{"more":"",'),
        ("test.target", "test.\\ud800target"),
        ('\\"kind\\":', '\\"kind\\":1,\\"kind\\":'),
    ],
)
def test_a_header_that_could_be_read_in_two_ways_is_refused(before, after):
    assert before in TEXT
    refused(framed(TEXT.replace(before, after, 1).encode(), DATA[8 + HEADER :]), "no message")


def test_a_header_in_another_encoding_is_refused():
    for encoding in ("utf-16", "utf-16-le", "utf-32", "latin-1"):
        refused(framed((TEXT + "\u00e9").encode(encoding), DATA[8 + HEADER :]))


def test_tensors_may_come_in_any_order_and_anywhere_in_memory():
    def turned(header):
        return dict(reversed(header.items()))

    for padding in range(8):  # the tensors begin at any address
        header = json.dumps(turned(json.loads(TEXT))) + " " * padding
        received = decode(framed(header.encode(), DATA[8 + HEADER :]))
        assert received.table.flags.aligned
        assert not received.table.flags.writeable
        np.testing.assert_array_equal(received.table, SENT.table)


def test_a_file_of_tensors_that_is_no_message_is_refused():
    def forget(header):
        del header["__metadata__"]

    refused(forged(forget), "metadata is missing")
    refused(forged(lambda header: {**header, "__metadata__": {"other": "{}"}}), "metadata")


@pytest.mark.parametrize("name", ["more", "count", "__class__"])
def test_a_tensor_under_a_name_that_is_not_declared_is_refused(name):
    def add(header):
        header[name] = {"dtype": "U8", "shape": [1], "data_offsets": [50, 51]}

    refused(forged(add, body=DATA[8 + HEADER :] + b"\1"))


@pytest.mark.parametrize("name", ["known", "table"])
def test_a_missing_tensor_is_refused(name):
    def leave_out(header):
        lost = header.pop(name)["data_offsets"]
        for rest in [h for key, h in header.items() if not key.startswith("_")]:
            rest["data_offsets"] = [0, 50 - (lost[1] - lost[0])]

    body = DATA[8 + HEADER :]
    refused(
        forged(leave_out, body=body[2:] if name == "known" else body[:2]), "expected the fields"
    )


def empty_table(shape):
    def change(header):
        header["table"] = {"dtype": "F64", "shape": shape, "data_offsets": [2, 2]}

    return forged(change, body=DATA[8 + HEADER :][:2])


def test_the_forge_makes_an_empty_table_that_is_refused_for_its_rows():
    refused(empty_table([0, 3]), "axis 'rows' must have length 2, got 0")


@pytest.mark.parametrize(
    "shape", [[0] * 65, [0, 2**63], [0, 2**64 - 1], [0, 2**62, 2**62]], ids=str
)
def test_a_shape_that_numpy_cannot_have_is_refused(shape):
    refused(empty_table(shape))


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_a_bool_that_is_neither_zero_nor_one_is_refused(byte):
    data = bytearray(DATA)
    data[8 + HEADER] = byte
    refused(bytes(data))
