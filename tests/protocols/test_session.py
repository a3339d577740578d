"""A session says who knows which row, and ends."""

import numpy as np
import pytest

from fedtl.exceptions import PartyError
from fedtl.protocols import ANSWERS, moments
from fedtl.protocols.session import end_session, open_session, prepare_session


def test_opening_tells_which_of_the_ids_the_party_knows(channel):
    ids = np.array([59, 5, 0, 60, -1, 17, 8])
    known = open_session(channel, "s", ids, resume=False)
    assert known.tolist() == [True, False, True, False, False, False, True]


def test_preparing_tells_the_width_of_the_encoding_and_nothing_of_the_rows(channel, crossed):
    open_session(channel, "s", np.arange(60), resume=False)
    # Three numbers, the marker of the hole in one of them, and four bins each.
    assert prepare_session(channel, "s", 4, seed=0) == 3 + 1 + 3 * 4
    (_, _, reply) = crossed[-1]
    assert len(reply) < 120


def test_a_party_encodes_all_its_rows_not_only_those_that_are_shared(channel):
    open_session(channel, "s", np.arange(5), resume=False)
    prepare_session(channel, "s", 4, seed=0)
    session = channel._service.sessions["s"]
    edges, _ = session.features.encoding_.piecewise_.columns_[0]
    column = channel._service.table.block[:, 0]
    assert (edges[0], edges[-1]) == (np.nanmin(column), np.nanmax(column))
    assert len(session.columns) == 5


def test_after_the_end_only_predictions_are_answered(channel):
    open_session(channel, "s", np.arange(60), resume=False)
    prepare_session(channel, "s", 4, seed=0)
    end_session(channel, "s")
    request = {"folds": np.zeros(1), "weight": np.ones(1), "targets": np.ones((1, 1))}
    with pytest.raises(PartyError, match="no fit is under way"):
        moments.ask_moments(channel, "s", np.zeros(1), **request, n_folds=1)


def test_every_request_is_answered_by_the_protocol_of_its_name():
    assert {protocol for protocol, _ in ANSWERS.values()} == {
        kind.split(".")[0] for kind in ANSWERS
    }
