"""Quotas by caller and day, and budgets of privacy, kept over restarts; approvals by a person."""

from __future__ import annotations

import datetime
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtl.exceptions import PolicyRefusal
from fedtl.parties import Policy, Usage
from fedtl.parties._policy import _COUNTING
from fedtl.privacy.accounting import Mechanism, from_json, to_json

_FIRST_DAY = datetime.date(1970, 1, 1).toordinal()


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@dataclass
class DailyUsage(Usage):
    """What a caller has used of a policy's quotas today (in UTC).

    Parameters
    ----------
    fits, predicted_rows, aligned_ids, dealt_numbers : int
        Counts of the day.
    spent : list of Mechanism
        What was told of rows with noise in the period, for the policy's epsilon.
    day : str
        The day, in ISO form. A clock that is put back does not renew a quota.
    period : str
        The period's first day; empty where epsilon is not renewed.
    all_fits : int
        Fits on all days, for approvals.
    approved : callable, optional
        Returns how many fits were approved by a person, on all days; without it none has to be.
    """

    day: str = ""
    period: str = ""
    all_fits: int = 0
    approved: Callable[[], int] | None = None

    def current(self) -> DailyUsage:
        """Return the counts of today, also if nothing was asked for today so far."""
        with _COUNTING:
            self._turn()
        return self

    def begin_fit(self, party: str, policy: Policy) -> None:
        """Count one more fit today, or refuse it."""
        with _COUNTING:
            self._begin_fit(party, policy)

    def _begin_fit(self, party: str, policy: Policy) -> None:
        self._turn()
        if self.approved is not None and self.all_fits >= self.approved():
            raise PolicyRefusal(
                party,
                "its policy wants every fit approved, and none is approved at the moment; ask the "
                "party to run 'fedtl approve'",
            )
        super().begin_fit(party, policy)
        self.all_fits += 1

    def predict(self, party: str, policy: Policy, n_rows: int) -> None:
        """Count rows to be scored today, or refuse them."""
        with _COUNTING:
            self._turn()
            super().predict(party, policy, n_rows)

    def allow_align(self, party: str, policy: Policy, n_ids: int) -> None:
        """Refuse to be asked about more ids today than are left, without counting them."""
        with _COUNTING:
            self._turn()
            super().allow_align(party, policy, n_ids)

    def deal(self, party: str, policy: Policy, n_numbers: int) -> None:
        """Count random numbers to be dealt today, or refuse them."""
        with _COUNTING:
            self._turn()
            super().deal(party, policy, n_numbers)

    def allow_spending(self, party: str, policy: Policy, mechanism: Mechanism) -> None:
        """Refuse what would exceed epsilon in this period, and note nothing."""
        with _COUNTING:
            self._renew(policy)
            super().allow_spending(party, policy, mechanism)

    def epsilon(self, policy: Policy) -> float:
        """Return what was spent on rows' privacy in this period."""
        with _COUNTING:
            self._renew(policy)
            return super().epsilon(policy)

    def renewed(self, policy: Policy) -> str | None:
        """Return the day on which epsilon is renewed, in ISO form; None if it is not."""
        if policy.epsilon_days is None:
            return None
        with _COUNTING:
            self._renew(policy)
            first = datetime.date.fromisoformat(self.period)
        return (first + datetime.timedelta(days=policy.epsilon_days)).isoformat()

    def _renew(self, policy: Policy) -> None:
        if policy.epsilon_days is not None:
            today = datetime.date.fromisoformat(_today()).toordinal() - _FIRST_DAY
            first = today - today % policy.epsilon_days + _FIRST_DAY
            period = datetime.date.fromordinal(first).isoformat()
            if period > self.period:
                self.period, self.spent = period, []

    def _turn(self) -> None:
        today = _today()
        if today > self.day:
            self.day, self.fits, self.predicted_rows = today, 0, 0
            self.aligned_ids = self.dealt_numbers = 0


class UsageFile:
    """The usages of all callers in one JSON file, replaced whenever one has changed.

    Parameters
    ----------
    path : Path
        The file.
    approvals : Path, optional
        Folder with a file for each caller that holds the number of fits approved; see
        :func:`approve`. Without it, no approval is needed.

    Notes
    -----
    The file is written before the answer leaves that was counted, so that the death of the
    process loses no count of what was answered. It is forced to the disk where rows' privacy was
    spent, so that a power cut does not give it back.
    """

    def __init__(self, path: Path, approvals: Path | None = None) -> None:
        self.path, self.approvals = path, approvals
        self._lock = threading.Lock()
        self._usages: dict[str, DailyUsage] = {}
        self._saved: dict[str, Any] = {}
        if path.exists():
            self._saved = json.loads(path.read_text())
        for caller, counts in self._saved.items():
            spent = [from_json(record) for record in counts.get("spent", [])]
            self._usages[caller] = DailyUsage(
                **{**counts, "spent": spent}, approved=self._approved(caller)
            )

    def of(self, caller: str) -> DailyUsage:
        """Return the usage of a caller, which is counted on by its sessions."""
        with self._lock:
            if caller not in self._usages:
                self._usages[caller] = DailyUsage(approved=self._approved(caller))
            return self._usages[caller]

    def save(self) -> None:
        """Write the file if a count has changed.

        Raises
        ------
        OSError
            If it cannot be written; the old one stays.
        """
        with self._lock:
            counts = {
                caller: {
                    "fits": usage.fits,
                    "predicted_rows": usage.predicted_rows,
                    "aligned_ids": usage.aligned_ids,
                    "dealt_numbers": usage.dealt_numbers,
                    "day": usage.day,
                    "all_fits": usage.all_fits,
                    "period": usage.period,
                    "spent": [to_json(mechanism) for mechanism in usage.spent],
                }
                for caller, usage in self._usages.items()
            }
            if counts == self._saved:
                return
            draft = self.path.with_name(self.path.name + ".new")
            with draft.open("w") as file:
                file.write(json.dumps(counts, indent=1))
                file.flush()
                if _spent(counts) != _spent(self._saved):
                    os.fsync(file.fileno())
            os.replace(draft, self.path)
            self._saved = counts

    def _approved(self, caller: str) -> Callable[[], int] | None:
        approvals = self.approvals
        return None if approvals is None else lambda: approved_fits(approvals, caller)


def _spent(counts: dict[str, Any]) -> dict[str, Any]:
    return {caller: each.get("spent") or [] for caller, each in counts.items()}


def approved_fits(approvals: Path, caller: str) -> int:
    """Return how many fits of a caller have been approved, on all days."""
    file = approvals / caller
    return int(file.read_text()) if file.exists() else 0


def approve(approvals: Path, caller: str, fits: int) -> int:
    """Approve more fits of a caller and return how many are approved in all.

    Parameters
    ----------
    approvals : Path
        The folder of the approvals.
    caller : str
        The caller's name.
    fits : int
        How many more.

    Returns
    -------
    int
        The sum.
    """
    approvals.mkdir(parents=True, exist_ok=True)
    total = approved_fits(approvals, caller) + fits
    draft = approvals / f"{caller}.new"
    draft.write_text(f"{total}\n")
    os.replace(draft, approvals / caller)
    return total
