"""Noise for differential privacy, from the operating system's randomness.

Gaussian numbers are the normal quantiles of AES-256-CTR's 64-bit words, in double precision. They
are real numbers of finite precision: attacks on the last bits of floating-point noise [1]_ are
not defended against.

References
----------
.. [1] I. Mironov. On significance of the least significant bits for differential privacy.
   CCS 2012.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from fedtl.privacy.keys import new_seed, uniform


def gaussian(shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers that nobody can repeat.

    Parameters
    ----------
    shape : tuple of int
        Shape of the result.

    Returns
    -------
    ndarray of shape `shape`, dtype float64
        Independent, of mean 0 and variance 1.
    """
    words = uniform(new_seed(), "gaussian noise", shape)
    # The middles of 2**53 equal cells: never 0 or 1, whose quantiles are infinite.
    return np.asarray(ndtri(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def poisson_sample(n: int, rate: float) -> np.ndarray:
    """Return which of `n` rows take part, each by itself with probability `rate`.

    Parameters
    ----------
    n : int
        Number of rows.
    rate : float
        The probability.

    Returns
    -------
    ndarray of shape (n_taking_part,), dtype int64
        Their positions.
    """
    if rate >= 1.0:
        return np.arange(n)
    words = uniform(new_seed(), "poisson sampling", (n,))
    return np.flatnonzero(words < np.uint64(math.floor(rate * 2.0**64)))


def symmetric_gaussian(shape: tuple[int, int, int]) -> np.ndarray:
    """Return symmetric matrices of noise: variance 1 on the diagonal, 1/2 beside it.

    As a vector of a symmetric matrix's Frobenius norm, this is Gaussian noise of variance 1.

    Parameters
    ----------
    shape : tuple of int
        (n_matrices, width, width).

    Returns
    -------
    ndarray of shape `shape`, dtype float64
        The matrices.
    """
    upper = np.triu(gaussian(shape))
    diagonal = np.eye(shape[1], dtype=bool)
    upper[:, ~diagonal] *= math.sqrt(0.5)
    return np.asarray(upper + np.triu(upper, 1).transpose(0, 2, 1))


def randomised_response(labels: np.ndarray, n_classes: int, epsilon: float) -> np.ndarray:
    """Replace labels at random, so that each of them stays open.

    A label is kept with probability ``exp(epsilon) / (exp(epsilon) + n_classes - 1)``, and
    otherwise becomes any of the others, all equally probable [2]_.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,), dtype int
        Positions of classes.
    n_classes : int
        Number of classes, 2 at least.
    epsilon : float
        Logarithm of how much more probable the true label is than any other.

    Returns
    -------
    ndarray of shape (n_rows,), dtype int64
        What is told.

    Raises
    ------
    ValueError
        If a label is no class.

    References
    ----------
    .. [2] S. L. Warner. Randomized response: a survey technique for eliminating evasive answer
       bias. JASA 1965; for several classes, P. Kairouz, S. Oh and P. Viswanath, Extremal
       mechanisms for local differential privacy, JMLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.privacy.noise import randomised_response
    >>> bool(np.mean(randomised_response(np.ones(10_000, int), 2, 1.0)) > 0.7)
    True
    """
    labels = np.asarray(labels, dtype=np.int64)
    if n_classes < 2 or (len(labels) and not 0 <= labels.min() <= labels.max() < n_classes):
        raise ValueError(f"labels must be positions of {n_classes} classes, two at least")
    words = uniform(new_seed(), "randomised response", (2, len(labels)))
    keep = kept_probability(n_classes, epsilon)
    kept = words[0] < np.uint64(min(math.floor(keep * 2.0**64), 2**64 - 1))
    # Modulo a few classes, 64-bit words are even to 1e-18.
    other = 1 + (words[1] % np.uint64(n_classes - 1)).astype(np.int64)
    return np.where(kept, labels, (labels + other) % n_classes)


def kept_probability(n_classes: int, epsilon: float) -> float:
    """Return the probability with which :func:`randomised_response` keeps a label."""
    return 1.0 / (1.0 + (n_classes - 1) * math.exp(-epsilon))


def true_probabilities(told: np.ndarray, epsilon: float) -> np.ndarray:
    """Return probabilities of true labels where those of randomised ones are known.

    Parameters
    ----------
    told : ndarray of shape (n_rows, n_classes), dtype float64
        Probabilities of labels as :func:`randomised_response` tells them.
    epsilon : float
        Its epsilon.

    Returns
    -------
    ndarray of shape (n_rows, n_classes), dtype float64
        Probabilities; what comes out negative, as the estimates are not exact, is zero.
    """
    n_classes = told.shape[1]
    keep = kept_probability(n_classes, epsilon)
    other = (1.0 - keep) / (n_classes - 1)
    found = np.clip((told - other) / (keep - other), 1e-12, None)
    return np.asarray(found / found.sum(axis=1, keepdims=True))
