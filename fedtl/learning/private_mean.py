"""Client-level differential privacy: parties' changes clipped, averaged, and noise on the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.learning.strategies import Update
from fedtl.privacy.noise import gaussian


@dataclass(frozen=True)
class PrivateMean:
    """Makes one update of the updates of a round, to which no party matters much.

    Parties count alike, whatever their rows, and one that does not reply counts as no change.

    Parameters
    ----------
    clip : float
        Bound of the norm of a party's change.
    noise_multiplier : float
        Standard deviation of the noise of the sum of changes, as a multiple of `clip`.

    Notes
    -----
    McMahan, Ramage, Talwar and Zhang, "Learning differentially private recurrent language models",
    ICLR 2018. No amplification by drawing parties is claimed.
    """

    clip: float
    noise_multiplier: float

    def __call__(self, updates: Sequence[Update], n_asked: int) -> list[Update]:
        """Return the one update that the strategy is given.

        Parameters
        ----------
        updates : sequence of Update
            What parties replied.
        n_asked : int
            Parties of the round.

        Returns
        -------
        list of Update
            One.
        """
        total = self.noise_multiplier * self.clip * gaussian(updates[0].change.shape)
        for update in updates:
            norm = float(np.linalg.norm(update.change.astype(np.float64)))
            total += update.change * min(1.0, self.clip / max(norm, 1e-12))
        return [Update((total / n_asked)[None], n_steps=1, loss=0.0)]
