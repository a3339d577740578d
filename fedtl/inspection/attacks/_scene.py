"""What an attack works on: a transcript, what each side knows by itself, and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtl.federation import Opening, Transcript
from fedtl.inspection.attacks._finding import Finding
from fedtl.inspection.attacks._told import Batch, RowNumbers, numbers_of_rows


@dataclass(frozen=True, eq=False)
class Scene:
    """A recorded fit of parties with different columns.

    Parameters
    ----------
    transcript : Transcript
        What crossed.
    active : str
        Name of the active party, which has the labels.
    passive : tuple of str
        Names of the others.
    labels : ndarray of shape (n_rows,), dtype float64
        The truth about labels: 1 for the rows that attackers look for, 0 for the others, NaN
        without a label.
    columns : mapping of str to ndarray of shape (n_rows, n_columns)
        Columns of each party as standardised numbers, NaN in rows that it does not know. A party
        whose columns are not at hand is left out.
    encoded : mapping of str to ndarray of shape (n_rows, width)
        What each passive party's linear model sees of its columns.
    predicted : mapping of str to (ndarray, ndarray)
        Rows, and what the active party is told of them if it has them predicted, where the part of
        the model that tells it is nobody's alone.
    names : mapping of str to sequence of str
        Names of the columns of `columns`, where they have any.
    ids : sequence of bytes
        Ids of the active party's rows, where they were matched by ids.
    most_ids : mapping of str to (int or None)
        How many ids each passive party's policy lets others ask about; None is no bound. A party
        whose policy is not known is left out.
    seed : int
        Seed of what attacks draw.
    """

    transcript: Transcript
    active: str
    passive: tuple[str, ...]
    labels: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    encoded: Mapping[str, np.ndarray] = field(default_factory=dict)
    predicted: Mapping[str, Batch] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ids: Sequence[bytes] = ()
    most_ids: Mapping[str, int | None] = field(default_factory=dict)
    seed: int = 0

    def rng(self, salt: int) -> np.random.Generator:
        """Return a generator that is one attack's own."""
        return np.random.default_rng([self.seed, salt])

    def told_to(self, party: str) -> list[RowNumbers]:
        """Return the numbers of single rows that a passive party received."""
        return numbers_of_rows(self.transcript.with_party(party), "sent")

    def told_by(self, party: str) -> list[RowNumbers]:
        """Return the numbers of single rows that the active party received from it."""
        return numbers_of_rows(self.transcript.with_party(party), "received")

    def scores_opened(self, party: str, holder: str = "") -> dict[str, Batch]:
        """Return the numbers of single rows that somebody made of protected messages, by source.

        Parameters
        ----------
        party : str
            The passive party with whom messages were exchanged.
        holder : str, default=""
            Who opened them; empty for the active party.

        Returns
        -------
        dict of str to (ndarray, ndarray)
            Rows and numbers of every opening that has ``rows`` and ``scores``.
        """
        found: dict[str, Batch] = {}
        for event in self.transcript.events:
            if not isinstance(event, Opening) or (event.party, event.holder) != (party, holder):
                continue
            if {"rows", "scores"} <= set(event.numbers):
                rows = event.numbers["rows"].astype(np.int64)
                found[f"{event.kind}, opened {len(found) + 1}"] = rows, event.numbers["scores"]
        return found

    def kept_coefficients(self, party: str) -> dict[str, np.ndarray]:
        """Return the coefficients for new rows that a passive party was given, by message."""
        found = {}
        for message in self.transcript.seen_by(party):
            coefficients = getattr(message, "coefficients", None)
            if coefficients is not None and coefficients.size:
                found[message.kind] = coefficients
        return found

    def coefficients(self, party: str) -> np.ndarray | None:
        """Return the coefficients by which the active party has a party's new rows scored.

        Parameters
        ----------
        party : str
            The passive party, whether or not it was given them.

        Returns
        -------
        ndarray of shape (1 + width, n_outputs) or None
            Constant one first; None where there are none, or the active party does not have them.
        """
        for solved in self.transcript.openings(party, "moments.coefficients"):
            return solved["coefficients"]
        return next(iter(self.kept_coefficients(party).values()), None)

    def predictions(self, party: str) -> Batch | None:
        """Return what the active party would be told if it had all rows predicted.

        Parameters
        ----------
        party : str
            The passive party.

        Returns
        -------
        (ndarray, ndarray) or None
            Rows and scores by the part of the model that is the party's; None if there is none or
            its columns are not at hand.
        """
        if party in self.predicted:
            return self.predicted[party]
        encoded, coefficients = self.encoded.get(party), self.coefficients(party)
        if encoded is not None and coefficients is not None:
            rows = np.flatnonzero(~np.isnan(encoded).any(axis=1))
            return rows, encoded[rows] @ coefficients[1:] + coefficients[0]
        for told in self.transcript.openings(party, "private_latent.clipped", holder=party):
            return told["rows"].astype(np.int64), told["latents"]
        return None

    def held_out(self, party: str) -> Batch | None:
        """Return what a passive party's part of the model says of rows it was not trained on.

        Parameters
        ----------
        party : str
            The passive party.

        Returns
        -------
        (ndarray, ndarray) or None
            Rows and held-out scores, which the party does not have; None if there are none.
        """
        for told in self.transcript.openings(party, "shared_latent.scores"):
            return told["rows"].astype(np.int64), told["scores"]
        for kind in ("moments.held_out", "moments.scores"):
            for model in self.transcript.openings(party, kind):
                if party in self.encoded and len(model["held_out"]) > 1:
                    rows, folds = model["rows"].astype(np.int64), model["folds"]
                    encoded, slopes = self.encoded[party][rows], model["held_out"][:, 1:]
                    scores = np.empty((len(rows), slopes.shape[2]))
                    for fold in np.unique(folds):
                        scores[folds == fold] = encoded[folds == fold] @ slopes[fold]
                    return rows, scores
        return None

    def labeled(self, rows: np.ndarray) -> np.ndarray:
        """Return which of these rows have a label."""
        return ~np.isnan(self.labels[rows])

    def own(self, party: str, rows: np.ndarray) -> np.ndarray | None:
        """Return a party's own columns of some rows; None if they are not at hand."""
        if party not in self.columns:
            return None
        return np.nan_to_num(self.columns[party][rows])[:, self._varying(party, rows)]

    def own_names(self, party: str, rows: np.ndarray) -> list[str]:
        """Return names of the columns of :meth:`own`; their numbers if they have none."""
        names = self.names.get(party, range(self.columns[party].shape[1]))
        return [str(name) for name, v in zip(names, self._varying(party, rows), strict=True) if v]

    def _varying(self, party: str, rows: np.ndarray) -> np.ndarray:
        own = np.nan_to_num(self.columns[party][rows])
        return np.asarray(np.ptp(own, axis=0) > 0 if len(own) else own.any(axis=0))

    def against_labels(self, number: str, attack: str, party: str, why: str = "") -> Finding:
        """Return the frame of a finding: a passive party that attacks labels."""
        return Finding(number, attack, party, self.active, "labels", why=why)

    def against_columns(self, number: str, attack: str, party: str, why: str = "") -> Finding:
        """Return the frame of a finding: the active party that attacks columns."""
        return Finding(number, attack, self.active, party, "columns", why=why)
