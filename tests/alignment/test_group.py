"""The group is ristretto255 as RFC 9496 has it, and nothing but its elements is accepted."""

import hashlib
import importlib
import os

import numpy as np
import pytest

from fedtl.alignment import InvalidPoint, hash_to_group, invert, multiply, random_scalar
from fedtl.alignment._group import _DOMAIN, _rbcl, scalar_from

# RFC 9496, appendix A.1: multiples 1 to 15 of the generator.
MULTIPLES = """
e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76
6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919
94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259
da80862773358b466ffadfe0b3293ab3d9fd53c5ea6c955358f568322daf6a57
e882b131016b52c1d3337080187cf768423efccbb517bb495ab812c4160ff44e
f64746d3c92b13050ed8d80236a7f0007c3b3f962f5ba793d19a601ebb1df403
44f53520926ec81fbd5a387845beb7df85a96a24ece18738bdcfa6a7822a176d
903293d8f2287ebe10e2374dc1a53e0bc887e592699f02d077d5263cdd55601c
02622ace8f7303a31cafc63f8fc48fdc16e1c8c8d234b2f0d6685282a9076031
20706fd788b2720a1ed2a5dad4952b01f413bcf0e7564de8cdc816689e2db95f
bce83f8ba5dd2fa572864c24ba1810f9522bc6004afe95877ac73241cafdab42
e4549ee16b9aa03099ca208c67adafcafa4c3f3e4e5303de6026e3ca8ff84460
aa52e000df2e16f55fb1032fc33bc42742dad6bd5a8fc0be0167436c5948501f
46376b80f409b29dc2b5f6f0c52591990896e5716f41477cd30085ab7f10301e
e0c418f7c8d9c4cdd7395b93ea124f3ad99021bb681dfc3302a9d99a2e53e64e
""".split()

# RFC 9496, appendix A.2: encodings that must be refused, one or two of each kind.
REFUSED = {
    "the identity": "00" * 32,
    "a field element that is not reduced": "00" + "ff" * 31,
    "another": "ff" * 31 + "7f",
    "the prime itself": "ed" + "ff" * 30 + "7f",
    "a negative field element": "01" + "00" * 31,
    "another negative one": "ed57ffd8c914fb201471d1c3d245ce3c746fcbe63a3679d51b6a516ebebe0e20",
    "a square root that does not exist": (
        "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371"
    ),
    "a negative product xy": "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",
    "y of zero": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

# RFC 9496, appendix A.3: the one-way map, from SHA-512 of these labels.
LABELS = {
    "Ristretto is traditionally a short shot of espresso coffee": (
        "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"
    ),
    "made with the normal amount of ground coffee but extracted with": (
        "f26e5b6f7d362d2d2a94c5d0e7602cb4773c95a2e5c31a64f133189fa76ed61b"
    ),
    "about half the amount of water in the same amount of time": (
        "006ccd2a9e6867e6a2c5cea83d3302cc9de128dd2a9a57dd8ee7b9d7ffe02826"
    ),
    "by using a finer grind.": "f8f0c87cf237953c5890aec3998169005dae3eca1fbb04548c635953c817f92a",
    "This produces a concentrated shot of coffee per volume.": (
        "ae81e7dedf20a497e10c304a765c1767a42d6e06029758d2d7e8ef7cc4c41179"
    ),
    "Just pulling a normal shot short will produce a weaker shot": (
        "e2705652ff9f5e44d3e841bf1c251cf7dddb77d140870d1ab2ed64f1a9ce8628"
    ),
    "and is not a Ristretto as some believe.": (
        "80bd07262511cdde4863f8a7434cef696750681cb9510eea557088f76d9e5065"
    ),
}


def as_points(*encodings):
    return np.frombuffer(bytes.fromhex("".join(encodings)), dtype=np.uint8).reshape(-1, 32)


def as_hex(points):
    return [row.tobytes().hex() for row in points]


def test_multiples_of_the_generator_are_those_of_the_rfc():
    generator = as_points(MULTIPLES[0])
    got = [as_hex(multiply(bytes([k]) + bytes(31), generator))[0] for k in range(1, 16)]
    assert got == MULTIPLES


def test_the_one_way_map_is_that_of_the_rfc():
    for text, expected in LABELS.items():
        digest = hashlib.sha512(text.encode()).digest()
        assert _rbcl().crypto_core_ristretto255_from_hash(digest).hex() == expected


def test_ids_are_hashed_by_that_map_with_a_domain_of_their_own():
    (point,) = as_hex(hash_to_group([b"ann"]))
    from_hash = _rbcl().crypto_core_ristretto255_from_hash
    assert point == from_hash(hashlib.sha512(_DOMAIN + b"ann").digest()).hex()
    assert point != from_hash(hashlib.sha512(b"ann").digest()).hex()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_element_or_the_identity_is_refused_wherever_it_stands(kind):
    points = hash_to_group([b"%d" % i for i in range(600)]).copy()
    for position in (0, 599):
        hostile = points.copy()
        hostile[position] = as_points(REFUSED[kind])
        for n_threads in (1, 2):
            with pytest.raises(InvalidPoint, match="one of 600 points is no element"):
                multiply(bytes([2]) + bytes(31), hostile, n_threads)


def test_threads_change_nothing_and_the_inverse_undoes_a_multiplication():
    ids = [b"%d" % i for i in range(2000)]
    points, scalar = hash_to_group(ids, n_threads=1), random_scalar()
    np.testing.assert_array_equal(points, hash_to_group(ids, n_threads=3))
    raised = multiply(scalar, points, n_threads=1)
    np.testing.assert_array_equal(raised, multiply(scalar, points, n_threads=3))
    np.testing.assert_array_equal(multiply(invert(scalar), raised), points)
    assert not (raised == points).all(axis=1).any()


def test_no_points_are_no_points():
    assert hash_to_group([]).shape == (0, 32)
    assert multiply(random_scalar(), np.empty((0, 32), dtype=np.uint8)).shape == (0, 32)


def test_secrets_differ_from_call_to_call_and_are_reduced():
    assert len({random_scalar() for _ in range(20)}) == 20
    order = 2**252 + 27742317777372353535851937790883648493
    assert int.from_bytes(scalar_from(b"\xff" * 64), "little") == (2**512 - 1) % order


@pytest.mark.skipif(os.name == "nt", reason="a file that is loaded cannot be removed there")
def test_the_library_leaves_no_file_behind():
    hash_to_group([b"ann"])
    assert not os.path.exists(importlib.import_module("rbcl._sodium").lib_path)
