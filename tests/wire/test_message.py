"""A message is what its schema declares, or it is refused."""

from typing import Annotated, Any

import numpy as np
import pytest

from fedtl.wire import Message, Tensor, WireError, check, encode, message


@message("test.schema/1")
class Schema(Message):
    count: int
    ratio: float
    flag: bool
    text: str
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    table: Annotated[np.ndarray, Tensor("float64", ("rows", "columns"))]
    pair: Annotated[np.ndarray, Tensor("float32", ("columns", 2), finite=False)]


def fields(**changed):
    """Return the fields of a valid message, some of them changed."""
    valid: dict[str, Any] = {
        "count": 3,
        "ratio": 0.5,
        "flag": True,
        "text": "s",
        "rows": np.arange(4, dtype=np.uint32),
        "table": np.zeros((4, 3)),
        "pair": np.zeros((3, 2), dtype=np.float32),
    }
    return valid | changed


def test_a_message_that_keeps_its_schema_passes():
    check(Schema(**fields()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"count": True}, "'count' must be int, got bool"),
        ({"count": 3.0}, "'count' must be int, got float"),
        ({"count": np.int64(3)}, "'count' must be int, got int64"),
        ({"count": None}, "'count' must be int, got NoneType"),
        ({"ratio": 1}, "'ratio' must be float, got int"),
        ({"ratio": np.float64(1)}, "'ratio' must be float, got float64"),
        ({"ratio": np.nan}, "'ratio' is not finite"),
        ({"ratio": -np.inf}, "'ratio' is not finite"),
        ({"flag": 1}, "'flag' must be bool, got int"),
        ({"flag": np.True_}, "'flag' must be bool, got bool"),
        ({"text": b"s"}, "'text' must be str, got bytes"),
        ({"text": np.str_("s")}, "'text' must be str, got str_"),
        ({"rows": [0, 1, 2, 3]}, "'rows' must be a uint32 array, got list"),
        ({"rows": np.arange(4)}, "'rows' must be a uint32 array, got int64"),
        ({"rows": np.zeros((4, 1), np.uint32)}, "'rows' must have 1 axes, got 2"),
        ({"table": np.zeros((4, 3), ">f8")}, "'table' must be a float64 array, got >f8"),
        ({"table": np.zeros((4, 3), object)}, "'table' must be a float64 array, got object"),
        ({"table": np.zeros(4)}, "'table' must have 2 axes, got 1"),
        ({"table": np.zeros((5, 3))}, "'table': axis 'rows' must have length 4, got 5"),
        ({"table": np.full((4, 3), np.nan)}, "'table' has NaN or infinity"),
        ({"table": np.full((4, 3), np.inf)}, "'table' has NaN or infinity"),
        ({"pair": np.zeros((2, 2), np.float32)}, "axis 'columns' must have length 3, got 2"),
        ({"pair": np.zeros((3, 1), np.float32)}, "'pair': axis 2 must have length 2, got 1"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_what_was_expected_and_what_came(changed, said):
    broken = Schema(**fields(**changed))
    with pytest.raises(WireError, match=r"^test\.schema/1: ") as refused:
        check(broken)
    assert said in str(refused.value)
    with pytest.raises(WireError):
        encode(broken)


def test_a_tensor_that_may_be_infinite_may_be_nan_too():
    check(Schema(**fields(pair=np.full((3, 2), np.nan, np.float32))))


def test_the_fields_of_a_message_are_all_given_and_no_others():
    with pytest.raises(TypeError, match="missing 6 required"):
        Schema(count=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'more'"):
        Schema(**fields(), more=1)


def test_a_message_does_not_change_once_it_is_made():
    with pytest.raises(AttributeError):
        Schema(**fields()).count = 4


def test_one_kind_belongs_to_one_message():
    with pytest.raises(TypeError, match=r"two messages of the kind 'test\.schema/1'"):

        @message("test.schema/1")
        class Other(Message):
            count: int


@pytest.mark.parametrize("hint", [dict, "np.ndarray", list[int], int | None, np.ndarray])
def test_a_field_that_is_neither_scalar_nor_tensor_cannot_be_declared(hint):
    class Loose(Message):
        anything: hint

    with pytest.raises(TypeError, match="'anything' must be a scalar or an annotated Tensor"):
        message("test.loose/1")(Loose)
