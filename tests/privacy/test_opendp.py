"""Noise and epsilon are those of OpenDP, an implementation of its own; needs opendp 0.16."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from fedtl.privacy.accounting import Gaussian, epsilon_of
from fedtl.privacy.noise import gaussian, kept_probability, randomised_response

dp = pytest.importorskip("opendp.prelude")

N = 20_000
DELTA = 1e-5


@pytest.fixture(autouse=True)
def enabled():
    dp.enable_features("contrib", "honest-but-curious")


@pytest.mark.parametrize(("n_classes", "epsilon"), [(2, 0.5), (2, 3.0), (5, 1.0), (10, 4.0)])
def test_randomised_labels_have_opendps_distribution_and_epsilon(n_classes, epsilon):
    keep = kept_probability(n_classes, epsilon)
    measurement = dp.m.make_randomized_response(list(range(n_classes)), keep)
    assert measurement.map(1) == pytest.approx(epsilon, rel=1e-9)
    for label in (0, n_classes - 1):
        theirs = [measurement(label) for _ in range(N // 4)]
        ours = randomised_response(np.full(N, label), n_classes, epsilon)
        counts = [np.bincount(told, minlength=n_classes) for told in (ours, theirs)]
        assert chi2_contingency(counts).pvalue > 1e-5


@pytest.mark.parametrize("scale", [0.7, 2.0])
def test_noise_has_opendps_distribution_and_no_more_epsilon_than_its_bound(scale):
    domain = dp.vector_domain(dp.atom_domain(T=float, nan=False))
    measurement = dp.m.make_gaussian(domain, dp.l2_distance(T=float), scale=scale)
    theirs = np.array(measurement([0.0] * N))
    assert ks_2samp(scale * gaussian((N,)), theirs).pvalue > 1e-5
    bound = dp.c.make_zCDP_to_approxDP(measurement).map(1.0).epsilon(DELTA)
    exact = epsilon_of([Gaussian(scale, 1.0, 1)], DELTA)
    # Concentrated differential privacy bounds from above; loss distributions are nearly exact.
    assert 0.8 * bound < exact <= bound
    assert epsilon_of([Gaussian(scale, 1.0, 1)], DELTA, "rdp") == pytest.approx(bound, rel=0.05)
