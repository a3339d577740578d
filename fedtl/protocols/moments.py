"""Moments: sums of products over shared rows, and the scores of linear models solved from them.

One round for the moments, one for the held-out scores; both take one message each way, whatever
the number of rows.

Who learns what:

- ``moments.request/1`` gives the party, for rows that both know: their fold, their weight and the
  targets. These are the labels and the active party's own held-out scores; where unlabelled shared
  rows outnumber labelled ones, also up to 48 principal components of the active party's columns,
  its canonical directions, and the joint model's scores of the unlabelled rows. *Without
  protection the party sees the labels of shared rows.*
- ``moments.reply/1`` gives the active party sums over whole folds: products of the party's
  encoded columns with each other and with the targets. No row of the party crosses.
- ``moments.model/1`` gives the party the coefficients on its columns, solved on all folds and
  without each fold.
- ``moments.scores/1`` gives the active party one held-out partial score a row and output, which
  is a fixed linear map of that row's encoded columns.
- ``moments.keep/1`` takes the place of both where no score of a training row is wanted: it gives
  the party the coefficients on its columns, solved on all folds, by which it serves new rows;
  ``moments.kept/1`` says that it has them.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.parties import PartyService, Session
from fedtl.protocols.serving import Serving
from fedtl.wire import Message, Tensor, message


@message("moments.request/1")
class MomentsRequest(Message):
    """Targets on shared rows."""

    session: str
    n_folds: int
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    weight: Annotated[np.ndarray, Tensor("float64", ("rows",))]
    targets: Annotated[np.ndarray, Tensor("float64", ("rows", "targets"))]


@message("moments.reply/1")
class MomentsReply(Message):
    """Sums over each fold; the first column is constant one, `gram` is an upper triangle."""

    gram: Annotated[np.ndarray, Tensor("float64", ("folds", "triangle"))]
    cross: Annotated[np.ndarray, Tensor("float64", ("folds", "columns", "targets"))]


@message("moments.model/1")
class Model(Message):
    """Coefficients on the party's columns, constant column first; to be kept if `keep`."""

    session: str
    keep: bool
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    held_out: Annotated[np.ndarray, Tensor("float64", ("folds", "columns", "outputs"))]
    coefficients: Annotated[np.ndarray, Tensor("float64", ("columns", "kept"))]


@message("moments.scores/1")
class Scores(Message):
    """Held-out partial scores of the rows that were asked for."""

    scores: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]


@message("moments.keep/1")
class Keep(Message):
    """Coefficients on the party's columns for new rows, constant column first."""

    session: str
    coefficients: Annotated[np.ndarray, Tensor("float64", ("columns", "kept"))]


@message("moments.kept/1")
class Kept(Message):
    """The party holds its coefficients."""


class MomentsExchange(Protocol):
    """How moments are asked for: in the clear or protected, with the same results."""

    def most_targets(self, n_rows: int) -> int:
        """Return how many targets' products over so many rows should be asked for."""
        ...

    def ask_moments(
        self,
        channel: Channel,
        session: str,
        rows: np.ndarray,
        *,
        folds: np.ndarray,
        weight: np.ndarray,
        targets: np.ndarray,
        n_folds: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask a party for its moments; see :func:`ask_moments`."""
        ...

    def keep(self, channel: Channel, session: str, coefficients: np.ndarray) -> Serving | None:
        """See to it that a party can score new rows.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        coefficients : ndarray of shape (1 + width, n_kept), dtype float64
            Coefficients, constant column first.

        Returns
        -------
        Serving or None
            What asks for scores, where the coefficients stay hidden from the party; None where it
            is given them, as by :func:`keep`.
        """
        ...


def ask_moments(
    channel: Channel,
    session: str,
    rows: np.ndarray,
    *,
    folds: np.ndarray,
    weight: np.ndarray,
    targets: np.ndarray,
    n_folds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Ask a party for its moments with these targets.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    rows : ndarray of shape (n_rows,), dtype int
        Positions of rows that the party knows, among those that the session was opened with.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    targets : ndarray of shape (n_rows, n_targets), dtype float64
        Targets.
    n_folds : int
        Number of folds.

    Returns
    -------
    gram : ndarray of shape (n_folds, 1 + width, 1 + width), dtype float64
        Weighted products of the party's columns, a constant one first.
    cross : ndarray of shape (n_folds, 1 + width, n_targets), dtype float64
        Weighted products with the targets.
    """
    request = MomentsRequest(
        session=session,
        n_folds=n_folds,
        rows=rows.astype(np.uint32),
        folds=folds.astype(np.uint8),
        weight=weight,
        targets=targets,
    )
    reply = channel.ask(request, MomentsReply)
    gram = unpack(reply.gram, reply.cross.shape[1])
    opened(channel.name, "moments.sums", gram=gram, cross=reply.cross)
    return gram, reply.cross


def ask_scores(
    channel: Channel,
    session: str,
    rows: np.ndarray,
    *,
    folds: np.ndarray,
    held_out: np.ndarray,
    coefficients: np.ndarray | None = None,
) -> np.ndarray:
    """Ask a party for scores of training rows, and give it the coefficients for new rows.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    rows : ndarray of shape (n_rows,), dtype int
        Positions of rows that the party knows.
    folds : ndarray of shape (n_rows,), dtype int
        Which of the coefficients in `held_out` scores each row.
    held_out : ndarray of shape (n_folds, 1 + width, n_outputs), dtype float64
        Coefficients that were solved without each fold.
    coefficients : ndarray of shape (1 + width, n_kept), dtype float64, optional
        Coefficients that the party keeps for new rows.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs), dtype float64
        Scores.
    """
    request = Model(
        session=session,
        keep=coefficients is not None,
        rows=rows.astype(np.uint32),
        folds=folds.astype(np.uint8),
        held_out=held_out,
        coefficients=held_out[0][:, :0] if coefficients is None else coefficients,
    )
    scores = channel.ask(request, Scores).scores
    opened(channel.name, "moments.scores", rows=rows, folds=folds, held_out=held_out, scores=scores)
    return scores


def keep(channel: Channel, session: str, coefficients: np.ndarray) -> None:
    """Give a party the coefficients for new rows; no row is scored.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    coefficients : ndarray of shape (1 + width, n_kept), dtype float64
        Coefficients, constant column first.
    """
    channel.ask(Keep(session=session, coefficients=coefficients), Kept)


class ClearMoments:
    """Moments in the clear."""

    def most_targets(self, n_rows: int) -> int:
        """Return how many targets may be asked for: any number, as nothing is protected."""
        return 2**31

    ask_moments = staticmethod(ask_moments)

    def keep(self, channel: Channel, session: str, coefficients: np.ndarray) -> None:
        """Give a party the coefficients for new rows; see :func:`keep`."""
        keep(channel, session, coefficients)


CLEAR = ClearMoments()
"""Nothing is protected."""


def answer_moments(party: PartyService, request: MomentsRequest) -> MomentsReply:
    """Sum products over each fold, encoding a few thousand rows at a time."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    if not len(rows):
        raise PartyError(party.name, "moments of no rows were asked for")
    check_folds(party.name, request.folds, request.n_folds)
    width = 1 + session.features.encoding_.width
    columns = width + request.targets.shape[1]
    party.policy.limits.allow(8 * request.n_folds * width * columns)
    counted = request.weight != 0
    allow_sums(party, session.ids[rows], request.folds, request.n_folds, counted=counted)
    gram, cross = fold_moments(
        session,
        rows,
        folds=request.folds,
        weight=request.weight,
        targets=request.targets,
        n_folds=request.n_folds,
    )
    return MomentsReply(gram=pack(gram), cross=cross)


def answer_model(party: PartyService, request: Model) -> Scores:
    """Keep the coefficients and score rows with those that were solved without their fold."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    check_folds(party.name, request.folds, len(request.held_out))
    check_width(party.name, session, request.held_out.shape[1])
    party.policy.limits.allow(8 * len(rows) * request.held_out.shape[2])
    count_scores(party, session, rows, request.held_out.shape[2])
    if request.keep:
        keep_coefficients(party.name, session, request.coefficients)
    return Scores(scores=fold_scores(session, rows, request.folds, request.held_out))


def answer_keep(party: PartyService, request: Keep) -> Kept:
    """Keep the coefficients."""
    keep_coefficients(party.name, party.session(request.session), request.coefficients)
    return Kept()


def allow_sums(
    party: PartyService, rows: np.ndarray, folds: np.ndarray, n_folds: int, counted: np.ndarray
) -> dict[int, int]:
    """Refuse sums over too few rows, by the party's policy.

    Parameters
    ----------
    party : PartyService
        Who is asked.
    rows : ndarray of shape (n_rows,), dtype int
        Ids of rows: one row of the party may be named several times.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    n_folds : int
        Number of folds.
    counted : ndarray of shape (n_rows,), dtype bool
        Which rows have a weight.

    Returns
    -------
    dict of int to int
        How many different rows are summed in each fold.
    """
    check_folds(party.name, folds, n_folds)
    summed = {}
    for fold in np.unique(folds):
        # What is summed is told for each fold; rows that are repeated or weigh nothing do not
        # make a sum any safer.
        summed[int(fold)] = len(np.unique(rows[(folds == fold) & counted]))
        party.policy.allow_aggregate(party.name, summed[int(fold)])
    return summed


def count_scores(party: PartyService, session: Session, rows: np.ndarray, n_scores: int) -> None:
    """Count what a fit is told about single training rows, or refuse it by the party's policy."""
    # By the party's own rows, which the other side may name several times.
    ids, of_row = np.unique(session.ids, return_inverse=True)
    told = session.state.get("scores.told", np.zeros(len(ids), dtype=np.int64))
    told = told + n_scores * np.bincount(of_row[rows], minlength=len(ids))
    party.policy.allow_row_scores(party.name, int(told.max(initial=0)))
    session.state["scores.told"] = told


def keep_coefficients(party: str, session: Session, coefficients: np.ndarray) -> None:
    """Keep coefficients for new rows, if they fit the party's encoding."""
    check_width(party, session, len(coefficients))
    session.state["fitted.coefficients"] = coefficients


def check_width(party: str, session: Session, n_coefficients: int) -> None:
    """Refuse coefficients, the constant one included, that do not fit the party's encoding."""
    if not session.features.fitted:
        raise PartyError(party, "coefficients were sent before the fit was prepared")
    width = 1 + session.features.encoding_.width
    if n_coefficients != width:
        raise PartyError(
            party,
            f"coefficients for {n_coefficients} columns were sent, its encoding has {width} "
            "with the constant",
        )


def check_folds(party: str, folds: np.ndarray, n_folds: int) -> None:
    """Refuse folds that are not numbers below `n_folds`."""
    if not 1 <= n_folds <= 255 or (len(folds) and folds.max() >= n_folds):
        raise PartyError(party, f"folds must lie below n_folds={n_folds}, which is at most 255")


def fold_moments(
    session: Session,
    rows: np.ndarray,
    *,
    folds: np.ndarray,
    weight: np.ndarray,
    targets: np.ndarray,
    n_folds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum products of encoded rows and targets over each fold, in bounded memory.

    The active party computes its own part with this, without a message.

    Parameters
    ----------
    session : Session
        A party's features and rows.
    rows : ndarray of shape (n_rows,), dtype int
        Which of the rows.
    folds, weight, targets : ndarray of shape (n_rows, ...)
        As in :func:`ask_moments`.
    n_folds : int
        Number of folds.

    Returns
    -------
    gram : ndarray of shape (n_folds, 1 + width, 1 + width), dtype float64
        See :func:`ask_moments`.
    cross : ndarray of shape (n_folds, 1 + width, n_targets), dtype float64
        See :func:`ask_moments`.
    """
    width = 1 + session.features.encoding_.width
    gram = np.zeros((n_folds, width, width))
    cross = np.zeros((n_folds, width, targets.shape[1]))
    for piece, encoded in session.encoded(rows):
        ones = np.hstack([np.ones((len(encoded), 1)), encoded])
        for fold in np.unique(folds[piece]):
            inside = folds[piece] == fold
            x = ones[inside]
            weighted = x * weight[piece][inside, None]
            gram[fold] += weighted.T @ x
            cross[fold] += weighted.T @ targets[piece][inside]
    return gram, cross


def fold_scores(
    session: Session, rows: np.ndarray, folds: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    """Score each row with its fold's coefficients: (n_rows, n_outputs), float64."""
    scores = np.empty((len(rows), held_out.shape[2]))
    for piece, encoded in session.encoded(rows):
        for fold in np.unique(folds[piece]):
            inside = folds[piece] == fold
            scores[piece][inside] = encoded[inside] @ held_out[fold][1:] + held_out[fold][0]
    return scores


def pack(gram: np.ndarray) -> np.ndarray:
    """Return the upper triangles of symmetric matrices, as rows."""
    upper = np.triu_indices(gram.shape[1])
    return np.asarray(gram[:, upper[0], upper[1]])


def unpack(triangles: np.ndarray, width: int) -> np.ndarray:
    """Return the symmetric matrices of upper triangles."""
    upper = np.triu_indices(width)
    gram = np.zeros((len(triangles), width, width))
    gram[:, upper[0], upper[1]] = triangles
    gram[:, upper[1], upper[0]] = triangles
    return gram
