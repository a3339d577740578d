"""Linear models of which each party serves itself the federated one or its own, by evidence."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from fedtl.estimators._exact import PRIVACY, ExactModel, Fit
from fedtl.federation import Federation, RowParties
from fedtl.inspection import PartyReport
from fedtl.learning.personal import CANDIDATES, Task
from fedtl.parties import Rows
from fedtl.protocols.personal import Evidence, Federated, ask_scores, deal, offer


class PersonalModel(ExactModel):
    """Base of the linear models with ``deploy="best"``."""

    deploy: str
    n_folds: int
    random_state: Any
    coef_: np.ndarray
    intercept_: Any

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        **PRIVACY,
        "deploy": [StrOptions({"federated", "best"})],
        "n_folds": [Interval(Integral, 2, 50, closed="both")],
        "random_state": ["random_state"],
    }

    services_: RowParties
    report_: PartyReport

    def _check_deploy(self) -> None:
        if self.deploy == "best" and isinstance(self.federation, Federation):
            raise ValueError(
                'deploy="best" keeps a model at each party to serve its rows through this '
                'estimator; remote parties serve theirs themselves: use deploy="federated"'
            )
        if self.deploy == "best" and self.party is None:
            raise ValueError(
                'deploy="best" serves each party its own model, so that a row\'s party must be '
                "known at prediction time: give the column of X that says it, as party=..."
            )

    def _personalize(self, fit: Fit, task: Task, solve: Callable[[int], np.ndarray]) -> None:
        """Offer the federated model to the parties, with the evidence that they need.

        `solve` returns the coefficients of the model without a fold, or of all rows for -1.
        """
        coefficients = solve(-1)
        if self.deploy == "federated":
            for name in ("services_", "report_", "_fit_name_"):
                self.__dict__.pop(name, None)
            return
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        for channel in fit.channels.values():
            deal(channel, fit.name, self.n_folds, seed)
        held_out = np.stack([solve(fold) for fold in range(self.n_folds)])
        federated = Federated(task, coefficients, held_out)
        evidence = {name: offer(c, fit.name, federated) for name, c in fit.channels.items()}
        loss = "log_loss" if task.n_classes else "squared_error"
        self.report_ = PartyReport(loss, [_record(name, e) for name, e in evidence.items()])
        self.services_, self._fit_name_ = fit.services, fit.name

    def _linear_scores(self, X: Any) -> np.ndarray:
        """Score rows: (n_rows, n_outputs)."""
        features = self._features(X, reset=False)
        coef = np.atleast_2d(self.coef_)
        scores = np.asarray(features @ coef.T + self.intercept_)
        if self.deploy == "federated" or not hasattr(self, "services_"):
            return scores
        owners = self._owners(X if hasattr(X, "shape") else np.asarray(X))
        for name in self.parties_:  # any other party is served the federated model
            rows = np.flatnonzero(owners == name)
            if len(rows):
                own = {name: Rows(features[rows])}
                channel = self.services_.channels(own, self.ledger_)[name]
                scores[rows] = ask_scores(channel, self._fit_name_)
        return scores


def _record(name: str, evidence: Evidence) -> dict[str, Any]:
    losses = np.where(np.isfinite(evidence.losses), evidence.losses, np.nan)
    served, local = losses[evidence.served], losses[CANDIDATES.index("local")]
    return {
        "party": name,
        "rows": evidence.n_rows,
        **dict(zip(CANDIDATES, losses.tolist(), strict=True)),
        "gain": float(local - served),
        "gain_se": float(evidence.gain_error),
        "served": CANDIDATES[evidence.served],
    }
