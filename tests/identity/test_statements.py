"""Statements that others hand on: whose they are is known without a line to the signer."""

import datetime
from types import SimpleNamespace

import pytest

pytest.importorskip("cryptography")

from fedtl.identity import Identity, _certificates


@pytest.fixture
def pair(tmp_path):
    """A shop, and a notary that has pinned it."""
    shop = Identity.create(tmp_path / "shop", "shop")
    notary = Identity.create(tmp_path / "notary", "notary")
    notary.pin(shop.certificate, shop.fingerprint)
    return shop, notary


def test_a_statement_is_its_signer_s_and_nobody_else_s(pair):
    shop, notary = pair
    proof = shop.sign(b"said")
    assert notary.signer(b"said", proof) == "shop"
    assert notary.signer(b"unsaid", proof) is None
    for wrong in (b"", proof[:63], proof[1:], bytes(64) + proof[64:], proof + bytes(2**15)):
        assert notary.signer(b"said", wrong) is None
    # The shop's certificate behind the signature of somebody else.
    assert notary.signer(b"said", notary.sign(b"said")[:64] + shop.certificate) is None
    assert shop.signer(b"said", notary.sign(b"said")) is None  # it has pinned nobody


def test_who_is_revoked_has_said_nothing(pair):
    shop, notary = pair
    proof = shop.sign(b"said")
    notary.revoke("shop")
    assert notary.signer(b"said", proof) is None


def test_a_certificate_that_has_run_out_proves_nothing(pair, monkeypatch):
    shop, notary = pair
    proof = shop.sign(b"said")
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=900)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda _: later), UTC=datetime.UTC)
    monkeypatch.setattr(_certificates, "datetime", clock)
    assert notary.signer(b"said", proof) is None
