"""How a user says what differential privacy a fit has."""

from __future__ import annotations

from dataclasses import dataclass

from fedtl.privacy.accounting import check_epsilon_delta


@dataclass(frozen=True)
class DifferentialPrivacy:
    """Noise, so that what a fit tells hardly depends on any one row, label or party.

    Parameters
    ----------
    epsilon : float
        What one fit may spend. About 1 is strong, 8 and more is weak.
    delta : float, default=1e-5
        Probability with which epsilon may not hold; well below one over the number of rows.
        Labels' noise needs none.
    unit : {"row", "party", "label"}, default="row"
        What hardly matters: one row of a party, all rows of a party, or one label.
    clip : float, default=1.0
        What is bounded before noise is added: the norm of a row's gradient in training by
        gradients, of a party's change with ``unit="party"``. Not used for moments, latents and
        labels, whose bounds are given.

    See Also
    --------
    PrivacyBudget : What all fits together may spend.

    Notes
    -----
    Needs the extra ``fedtl[dp]``. C. Dwork, F. McSherry, K. Nissim and A. Smith, "Calibrating noise
    to sensitivity in private data analysis", TCC 2006. Noise comes from the operating system's
    randomness, so that no `random_state` repeats a fit.

    Examples
    --------
    >>> from fedtl.privacy import DifferentialPrivacy
    >>> DifferentialPrivacy(epsilon=2.0)
    DifferentialPrivacy(epsilon=2.0, delta=1e-05, unit='row', clip=1.0)
    >>> DifferentialPrivacy(epsilon=0.0)
    Traceback (most recent call last):
    ValueError: epsilon must be a positive number, got 0.0
    """

    epsilon: float
    delta: float = 1e-5
    unit: str = "row"
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_epsilon_delta(self.epsilon, self.delta)
        if self.unit not in ("row", "party", "label"):
            raise ValueError(f"unit must be 'row', 'party' or 'label', got {self.unit!r}")
        if not (isinstance(self.clip, int | float) and 0.0 < self.clip < float("inf")):
            raise ValueError(f"clip must be a positive number, got {self.clip!r}")
