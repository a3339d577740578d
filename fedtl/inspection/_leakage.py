"""How much an honest-but-curious partner could learn from the messages of a fit."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from fedtl.federation import Transcript, record_transcript
from fedtl.inspection._report import _html_table, _text_table
from fedtl.inspection.attacks import (
    ATTACKS,
    Finding,
    membership_attack,
    update_inversion_attack,
)
from fedtl.inspection.attacks._of_fit import rowwise_scene_of_fit, scene_of_fit
from fedtl.inspection.attacks._updates import COORDINATOR
from fedtl.parties import Policy
from fedtl.solvers.transfer import TransferModel
from fedtl.solvers.tuning import TunedModel


@dataclass(frozen=True, eq=False)
class LeakageReport:
    """What attacks on a recorded fit found; prints as text, shows as HTML, turns into a table.

    Parameters
    ----------
    parties : tuple of str
        Names; the active party or the coordinator first.
    labels : str
        Which rows label attacks look for.
    findings : list of Finding
        What each attack found.
    """

    parties: tuple[str, ...]
    labels: str
    findings: list[Finding]

    @property
    def leaks(self) -> list[Finding]:
        """The attacks that did better than their bound."""
        return [finding for finding in self.findings if not finding.withstood]

    def to_frame(self) -> Any:
        """Return a table with a row for each attack.

        Returns
        -------
        pandas.DataFrame
            With the number of the attack, its name, who attacks whom, what it is after, the message
            that it uses, what the attacker knows besides; score, control and what is told in use
            with their 95 % intervals, chance, the excess over what the score is compared with and
            the margin for it, the bound, whether it was withstood, and the verdict in words.
        """
        import pandas as pd

        return pd.DataFrame([_record(finding) for finding in self.findings])

    def __str__(self) -> str:
        lines = [f"Leakage among {', '.join(self.parties)}; {self.labels}", ""]
        lines.append(_text_table(*self._table()))
        silent = [f for f in self.findings if not f.applies]
        if silent:
            lines += ["", "Not applicable:", *[f"  {_not_applicable(f)}" for f in silent]]
        lines += ["", self._summary()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        parts = [f"<h4>Leakage among {html.escape(', '.join(self.parties))}</h4>"]
        parts += [f"<p>{html.escape(self.labels)}</p>", _html_table(*self._table())]
        silent = [
            f"<li>{html.escape(_not_applicable(f))}</li>" for f in self.findings if not f.applies
        ]
        parts += ["<p>Not applicable:</p><ul>", *silent, "</ul>"] if silent else []
        return "".join([*parts, f"<p>{html.escape(self._summary())}</p>"])

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = [
            "",
            "attack",
            "by",
            "on",
            "from",
            "score",
            "control",
            "in use",
            "bound",
            "verdict",
        ]
        body = [
            [
                f.number,
                f.attack,
                f.attacker,
                f"{f.target} of {f.victim}",
                f.source,
                f"{f.score}",
                f"{f.control}",
                f"{f.in_use}",
                f"{f.bound:.3f}",
                f.verdict,
            ]
            for f in self.findings
            if f.applies
        ]
        return header, body

    def _summary(self) -> str:
        tried = [f for f in self.findings if f.applies]
        return (
            f"{len(self.leaks)} of {len(tried)} attacks learnt more than their bound. An attack "
            "that was withstood proves nothing about others."
        )


def leakage_report(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    sample_party: Any = None,
    transcript: Transcript | None = None,
    policies: Mapping[str, Policy] | None = None,
    n_shadows: int = 16,
    random_state: int = 0,
) -> LeakageReport:
    """Fit, record what crosses, and attack it as each party could.

    Parameters
    ----------
    estimator : estimator
        A :class:`~fedtl.FederatedTransferClassifier`, :class:`~fedtl.FederatedTransferRegressor` or
        :class:`~fedtl.FederatedFineTuner`; it is cloned and fitted.
    X : array-like or dataframe of shape (n_rows, n_columns)
        Training rows.
    y : array-like of shape (n_rows,)
        Their targets. Label attacks look for the rarest class, or for values above the median.
    sample_party : array-like of shape (n_rows,), default=None
        Whose row is whose, for the fine-tuner.
    transcript : Transcript, default=None
        What was recorded when `estimator`, which is then not fitted again, was fitted on these very
        rows; see :func:`~fedtl.federation.record_transcript`.
    policies : mapping of str to Policy, default=None
        Policies of remote parties, where they are known: how many ids they let others ask about.
    n_shadows : int, default=16
        Models that a membership attack on the fine-tuner trains, as often as the fit takes.
    random_state : int, default=0
        Seed of what attacks draw: the rows whose labels or columns they know, and bootstraps.

    Returns
    -------
    LeakageReport
        Each attack's score, its control and its bound.

    Raises
    ------
    TypeError
        If there are no attacks on this kind of estimator.

    See Also
    --------
    LeakageDisplay : Plots the report.

    Notes
    -----
    Attackers follow the protocol and see what crossed, what they had before, and nothing else;
    whoever runs the report sees all of it, so run it on data that may be seen. Intervals are over
    rows, batches and what attackers know, for this one fit. Fits count in the quotas of the
    estimator's federation.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_breast_cancer_parties
    >>> from fedtl.inspection import leakage_report
    >>> cancer = load_breast_cancer_parties()
    >>> clf = FederatedTransferClassifier(cancer.parties, solver="moments", random_state=0)
    >>> report = leakage_report(clf, cancer.data, cancer.target)
    >>> [finding.source for finding in report.leaks if finding.attack == "direct"]
    ['moments.request/1: targets']
    """
    crossed = transcript
    if crossed is None:
        estimator = clone(estimator)
        with record_transcript() as crossed:
            whose = {} if sample_party is None else {"sample_party": sample_party}
            estimator.fit(X, y, **whose)
    model = getattr(estimator, "model_", None)
    if isinstance(model, TransferModel):
        most_ids = {name: policy.max_aligned_ids for name, policy in (policies or {}).items()}
        scene, labels = scene_of_fit(estimator, X, y, crossed, seed=random_state, most_ids=most_ids)
        findings = [finding for attack in ATTACKS for finding in attack(scene)]
        return LeakageReport((scene.active, *scene.passive), labels, findings)
    if isinstance(model, TunedModel):
        rounds, owners = rowwise_scene_of_fit(estimator, X, crossed, sample_party, random_state)
        findings = update_inversion_attack(rounds)
        findings += membership_attack(
            estimator, X, y, owners, n_shadows=n_shadows, seed=random_state
        )
        return LeakageReport((COORDINATOR, *rounds.rows), f"{len(owners):,} rows", findings)
    raise TypeError(
        f"there are no attacks on a fit of {type(estimator).__name__}: expected a "
        "FederatedTransferClassifier, FederatedTransferRegressor or FederatedFineTuner"
        + ("" if transcript is None else " that is fitted")
    )


def _not_applicable(finding: Finding) -> str:
    who = f"{finding.attacker} on {finding.victim}"
    used = "" if np.isnan(finding.in_use.value) else f"; in use, it scores {finding.in_use}"
    return f"{finding.number} {finding.attack}, {who}: {finding.why}{used}"


def _record(finding: Finding) -> dict[str, Any]:
    return {
        "number": finding.number,
        "attack": finding.attack,
        "attacker": finding.attacker,
        "victim": finding.victim,
        "target": finding.target,
        "source": finding.source,
        "knows": finding.knows,
        "metric": finding.metric,
        "score": finding.score.value,
        "score_low": finding.score.low,
        "score_high": finding.score.high,
        "control": finding.control.value,
        "control_low": finding.control.low,
        "control_high": finding.control.high,
        "in_use": finding.in_use.value,
        "in_use_low": finding.in_use.low,
        "in_use_high": finding.in_use.high,
        "chance": finding.chance,
        "excess": finding.score.value - finding.reference,
        "margin": finding.margin,
        "bound": np.nan if not finding.applies else finding.bound,
        "withstood": finding.withstood,
        "verdict": finding.verdict,
    }
