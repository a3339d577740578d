"""What mechanisms cost in epsilon, and a budget that several processes spend from.

The arithmetic is that of dp-accounting [1]_: privacy loss distributions (PLD) for what is charged,
which are tight, and Renyi divergences (RDP) to check them by. This file says which mechanisms are
composed, and keeps the book.

References
----------
.. [1] Google's differential privacy libraries, https://github.com/google/differential-privacy.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedtl.exceptions import BudgetSpent

_RDP_ORDERS = [*(k / 10 for k in range(20, 110)), *range(11, 64), *range(64, 257, 16), 512, 1024]
_CLOSE = 0.002
_GRID = 1e-3
"""Losses are rounded up to multiples of this: within a thousandth of epsilon, and fast."""


@dataclass(frozen=True)
class Gaussian:
    """Sums to which every row adds a vector of bounded norm, with Gaussian noise.

    Neighbouring data differ in one row, whose vector is there or is zero.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise, as a multiple of the bound.
    sampling_rate : float, default=1.0
        Probability with which each row takes part in a step, by itself (Poisson sampling).
    n_steps : int, default=1
        How many such sums.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    n_steps: int = 1


@dataclass(frozen=True)
class Response:
    """Randomised response: each label is told with noise of its own.

    Neighbouring data differ in one label.

    Parameters
    ----------
    epsilon : float
        Logarithm of how much more probable the true label is than any other.
    """

    epsilon: float


Mechanism = Gaussian | Response


def epsilon_of(mechanisms: Sequence[Mechanism], delta: float, accountant: str = "pld") -> float:
    """Return what mechanisms on the same rows cost together.

    Parameters
    ----------
    mechanisms : sequence of Gaussian or Response
        What was, or will be, computed.
    delta : float
        Probability with which epsilon may not hold.
    accountant : {"pld", "rdp"}, default="pld"
        Privacy loss distributions, or Renyi divergences, which are never below them.

    Returns
    -------
    float
        The epsilon; labels' responses are added up, as their unit is another.

    Raises
    ------
    ImportError
        If dp-accounting is not installed.

    Examples
    --------
    >>> from fedtl.privacy.accounting import Gaussian, epsilon_of
    >>> training = Gaussian(noise_multiplier=1.1, sampling_rate=0.01, n_steps=10_000)
    >>> round(epsilon_of([training], 1e-5), 1), round(epsilon_of([training], 1e-5, "rdp"), 1)
    (5.2, 5.6)
    """
    counts = Counter(mechanisms)
    return _epsilon_of(tuple(sorted(counts.items(), key=repr)), float(delta), accountant)


@lru_cache(maxsize=1024)
def _epsilon_of(counts: tuple[tuple[Mechanism, int], ...], delta: float, accountant: str) -> float:
    responses = sum(n * m.epsilon for m, n in counts if isinstance(m, Response))
    sums = [(m, n) for m, n in counts if isinstance(m, Gaussian)]
    if not sums:
        return float(responses)
    account = _account(accountant)
    for mechanism, n in sums:
        account.compose(_event(mechanism), n)
    return float(responses + account.get_epsilon(delta))


def _account(accountant: str) -> Any:
    dp = _dp_accounting()
    if accountant == "rdp":
        return dp.rdp.RdpAccountant(_RDP_ORDERS)
    return dp.pld.PLDAccountant(value_discretization_interval=_GRID)


def _event(mechanism: Gaussian) -> Any:
    dp = _dp_accounting()
    step = dp.GaussianDpEvent(mechanism.noise_multiplier)
    if mechanism.sampling_rate < 1.0:
        step = dp.PoissonSampledDpEvent(mechanism.sampling_rate, step)
    return dp.SelfComposedDpEvent(step, mechanism.n_steps)


@lru_cache(maxsize=1024)
def calibrated(
    epsilon: float, delta: float, sampling_rate: float = 1.0, n_steps: int = 1
) -> Gaussian:
    """Return the sums with the least noise that cost no more than epsilon.

    Parameters
    ----------
    epsilon, delta : float
        What they may cost.
    sampling_rate : float, default=1.0
        Probability with which each row takes part in a step.
    n_steps : int, default=1
        How many.

    Returns
    -------
    Gaussian
        The mechanism; its noise is within half a per cent of the least.

    Raises
    ------
    ImportError
        If dp-accounting is not installed.
    ValueError
        If epsilon or delta are out of range, or so large or small that no noise can be computed.

    Examples
    --------
    >>> from fedtl.privacy.accounting import calibrated
    >>> round(calibrated(1.0, 1e-5).noise_multiplier, 1)
    3.7
    """
    check_epsilon_delta(epsilon, delta)
    dp = _dp_accounting()

    def noise(accountant: str, low: float, high: float | None, tolerance: float) -> float:
        bracket = (
            dp.LowerEndpointAndGuess(low, 2.0 * low)
            if high is None
            else dp.ExplicitBracketInterval(low, high)
        )
        return float(
            dp.calibrate_dp_mechanism(
                lambda: _account(accountant),
                lambda sigma: _event(Gaussian(sigma, sampling_rate, n_steps)),
                epsilon,
                delta,
                bracket,
                tol=tolerance,
            )
        )

    # Renyi divergences are fast and say where to look: too much noise, by a few per cent.
    try:
        most = noise("rdp", 0.1, None, 0.01)
    except (dp.mechanism_calibration.NoBracketIntervalFoundError, ValueError) as error:
        raise ValueError(
            f"no noise can be computed for epsilon={epsilon:g} and delta={delta:g}; take an "
            "epsilon of some units, and a delta well below one over the number of rows"
        ) from error
    least = most
    while epsilon_of([Gaussian(least, sampling_rate, n_steps)], delta) <= epsilon:
        most, least = least, 0.9 * least
    return Gaussian(noise("pld", least, most, _CLOSE * most), sampling_rate, n_steps)


def check_epsilon_delta(epsilon: float, delta: float) -> None:
    """Refuse an epsilon or delta that promises nothing.

    Parameters
    ----------
    epsilon, delta : float
        The parameters.

    Raises
    ------
    ValueError
        Unless epsilon is positive and finite, and delta between 0 and 1.
    """
    if not (isinstance(epsilon, int | float) and 0.0 < epsilon < math.inf):
        raise ValueError(f"epsilon must be a positive number, got {epsilon!r}")
    if not (isinstance(delta, int | float) and 0.0 < delta < 1.0):
        raise ValueError(
            f"delta must lie between 0 and 1, and well below one over the number of rows, "
            f"got {delta!r}"
        )


def check_delta(delta: float, n_rows: int) -> None:
    """Refuse a delta that allows to tell a row as it is.

    Parameters
    ----------
    delta : float
        The parameter.
    n_rows : int
        Rows that are to be protected.

    Raises
    ------
    ValueError
        Unless delta is below one over the number of rows.
    """
    if delta * n_rows >= 1.0:
        raise ValueError(
            f"delta={delta:g} would allow to tell one of {n_rows} rows as it is; it has to be "
            "well below one over their number"
        )


def check_spending(
    owner: str, before: Sequence[Mechanism], mechanism: Mechanism, epsilon: float, delta: float
) -> None:
    """Refuse what would exceed a budget.

    Parameters
    ----------
    owner : str
        Whose rows.
    before : sequence of Gaussian or Response
        What was computed of them.
    mechanism : Gaussian or Response
        What will be.
    epsilon, delta : float
        The budget.

    Raises
    ------
    BudgetSpent
        If it would.
    """
    total = epsilon_of([*before, mechanism], delta)
    if total > epsilon:
        raise BudgetSpent(
            owner,
            f"with this fit, what {len(before)} earlier ones spent would come to epsilon "
            f"{total:.4g} at delta {delta:g}, and its budget is {epsilon:g}; no row "
            "was used. Ask for fewer fits or a smaller epsilon for each",
        )


class PrivacyBudget:
    """What may be spent of privacy over all fits, and the book of what was.

    Each owner of rows has an account of its own in it, and each may spend the whole budget, as
    rows have one owner. What a fit will use is written down before it touches data, and stays
    spent if the fit fails. The book is a file behind a lock, so that the folds of a
    cross-validation draw on one budget in threads and in processes alike. A budget is not cloned:
    estimators that are cloned, copied or pickled go on spending from the same file.

    Parameters
    ----------
    epsilon, delta : float
        What may be spent on each owner's rows.
    path : path, default=None
        Where the book is kept, to go on after this process; an existing book is gone on with.
        None keeps it in a temporary folder that is removed with this object.

    See Also
    --------
    fedtl.privacy.DifferentialPrivacy : What one fit may spend.

    Notes
    -----
    Every fit is counted as if it saw all rows of the owner, though a fold leaves some out.

    Examples
    --------
    >>> from fedtl.privacy import PrivacyBudget
    >>> from fedtl.privacy.accounting import Gaussian
    >>> budget = PrivacyBudget(epsilon=2.0, delta=1e-5)
    >>> budget.spend("clinic", Gaussian(4.0))
    >>> round(budget.spent("clinic"), 2)
    0.93
    >>> for _ in range(20):
    ...     budget.spend("clinic", Gaussian(4.0))
    Traceback (most recent call last):
    fedtl.exceptions.BudgetSpent: party 'clinic': ... would come to epsilon 2...
    >>> round(budget.spent("clinic"), 2)
    1.99
    """

    def __init__(self, epsilon: float, delta: float = 1e-5, path: Any = None) -> None:
        check_epsilon_delta(epsilon, delta)
        self.epsilon, self.delta = epsilon, delta
        if path is None:
            folder = tempfile.mkdtemp(prefix="fedtl-budget-")
            weakref.finalize(self, shutil.rmtree, folder, True)
            path = Path(folder) / "budget.json"
        self.path = Path(path).absolute()
        with self._locked():
            if not self.path.exists():
                self._write([])
            self._read()

    def __sklearn_clone__(self) -> PrivacyBudget:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PrivacyBudget:
        return self

    def __repr__(self) -> str:
        return f"PrivacyBudget(epsilon={self.epsilon!r}, delta={self.delta!r})"

    def spend(self, owner: str, mechanism: Mechanism) -> None:
        """Write down what a fit is about to use of an owner's rows.

        Parameters
        ----------
        owner : str
            Whose rows.
        mechanism : Gaussian or Response
            What will be computed of them.

        Raises
        ------
        BudgetSpent
            If that would exceed the budget; nothing is written then.
        """
        with self._locked():
            book = self._read()
            self._check(owner, mechanism, book)
            self._write([*book, (owner, mechanism)])

    def allow(self, owner: str, mechanism: Mechanism) -> None:
        """Raise what :meth:`spend` would, and write nothing."""
        with self._locked():
            self._check(owner, mechanism, self._read())

    def spent(self, owner: str) -> float:
        """Return the epsilon that was spent on an owner's rows, at the budget's delta."""
        with self._locked():
            book = self._read()
        return epsilon_of([m for name, m in book if name == owner], self.delta)

    def entries(self) -> list[dict[str, Any]]:
        """Return the book: for each entry the owner, the mechanism and its numbers."""
        with self._locked():
            return [_entry(owner, mechanism) for owner, mechanism in self._read()]

    def _check(self, owner: str, mechanism: Mechanism, book: list[tuple[str, Mechanism]]) -> None:
        before = [m for name, m in book if name == owner]
        check_spending(owner, before, mechanism, self.epsilon, self.delta)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock

        # A lock of its own for each use: one that is shared would let threads in together.
        with FileLock(f"{self.path}.lock", timeout=60):
            yield

    def _read(self) -> list[tuple[str, Mechanism]]:
        try:
            book = json.loads(self.path.read_text())
            agreed = book["epsilon"], book["delta"]
            entries = [_read_entry(entry) for entry in book["spent"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the book of the privacy budget {str(self.path)!r} cannot be read ({error}); "
                "without it nothing may be spent"
            ) from error
        if agreed != (self.epsilon, self.delta):
            raise ValueError(
                f"{str(self.path)!r} is the book of a budget of epsilon {agreed[0]} and delta "
                f"{agreed[1]}, not of {self.epsilon} and {self.delta}"
            )
        return entries

    def _write(self, book: list[tuple[str, Mechanism]]) -> None:
        """Replace the book as a whole: a process that dies leaves the old one or the new one."""
        text = json.dumps(
            {
                "epsilon": self.epsilon,
                "delta": self.delta,
                "spent": [_entry(owner, mechanism) for owner, mechanism in book],
            },
            indent=1,
        )
        draft = self.path.with_suffix(".new")
        with open(draft, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def to_json(mechanism: Mechanism) -> dict[str, Any]:
    """Return a mechanism as a record for a book."""
    return {"mechanism": type(mechanism).__name__, **asdict(mechanism)}


def from_json(record: dict[str, Any]) -> Mechanism:
    """Return the mechanism of a record."""
    kind = {"Gaussian": Gaussian, "Response": Response}[record["mechanism"]]
    return kind(**{k: v for k, v in record.items() if k != "mechanism"})


def _entry(owner: str, mechanism: Mechanism) -> dict[str, Any]:
    return {"owner": owner, **to_json(mechanism)}


def _read_entry(entry: dict[str, Any]) -> tuple[str, Mechanism]:
    return entry["owner"], from_json({k: v for k, v in entry.items() if k != "owner"})


def check_installed() -> None:
    """Raise an ImportError that says what to install, if accounting is not possible."""
    _dp_accounting()


def _dp_accounting() -> Any:
    try:
        import dp_accounting
        from dp_accounting import pld, rdp  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "differential privacy needs dp-accounting and opacus: pip install 'fedtl[dp]'"
        ) from error
    return dp_accounting
