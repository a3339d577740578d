"""A key that tests of Paillier encryption share: making one takes a while."""

import pytest


@pytest.fixture(scope="session")
def key():
    """A key of 2,048 bits."""
    pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    from fedtl.privacy.paillier import PrivateKey

    return PrivateKey.generate(2048)


@pytest.fixture(scope="session")
def noise(key):
    """Noise for that key, made ahead."""
    noise = key.noise()
    noise.make(150)
    return noise
