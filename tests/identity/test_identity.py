"""An identity recognises whom it pinned, and shows its key to nobody."""

import subprocess

import pytest

pytest.importorskip("cryptography")

from fedtl.identity import Identity, Partner, fingerprint_of, name_of


@pytest.fixture
def bank(tmp_path):
    return Identity.create(tmp_path / "bank", "bank")


@pytest.fixture
def shop(tmp_path):
    return Identity.create(tmp_path / "shop", "shop-2")


def test_a_key_is_readable_by_its_owner_only(bank):
    key = bank.directory / "key.pem"
    assert oct(key.stat().st_mode & 0o777) == "0o600"
    key.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        Identity(bank.directory)


def test_a_certificate_has_the_name_and_the_fingerprint_that_openssl_shows(bank):
    path = bank.directory / "certificate.pem"
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-fingerprint", "-sha256", "-ext",
         "subjectAltName,basicConstraints"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout  # fmt: skip
    assert bank.fingerprint == shown.splitlines()[0].partition("=")[2].replace(":", "").lower()
    assert "DNS:bank" in shown
    assert "CA:FALSE" in shown
    assert name_of(bank.certificate) == bank.name == "bank"


def test_a_partner_is_pinned_by_the_fingerprint_that_it_told(bank, shop):
    told = ":".join(shop.fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    partner = bank.pin(shop.certificate, told)
    assert partner == Partner("shop-2", shop.fingerprint)
    assert bank.partners() == [partner]
    assert bank.recognise(shop.certificate) == partner
    assert bank.trust() == bank.trust("shop-2") == shop.certificate
    assert bank.trust("post") == b""


@pytest.mark.parametrize("told", ["", "0" * 64, "abc"])
def test_a_certificate_of_another_fingerprint_is_not_pinned(bank, shop, told):
    with pytest.raises(ValueError, match=f"{shop.fingerprint}, not"):
        bank.pin(shop.certificate, told)
    assert bank.partners() == []
    assert bank.recognise(shop.certificate) is None


def test_a_revoked_partner_is_recognised_no_longer(bank, shop):
    partner = bank.pin(shop.certificate, shop.fingerprint)
    assert bank.revoke("shop-2") == [partner]
    assert bank.recognise(shop.certificate) is None
    bank.pin(shop.certificate, shop.fingerprint)
    assert bank.recognise(shop.certificate) is None, "revoked for good"
    with pytest.raises(ValueError, match=r"'nobody' is not pinned \(pinned: shop-2\)"):
        bank.revoke("nobody")


def test_rotating_makes_another_key_of_the_same_name_and_keeps_the_old_one(bank):
    old = bank.fingerprint
    new = bank.rotate()
    assert (new.name, new.directory) == ("bank", bank.directory)
    assert new.fingerprint != old
    kept = bank.directory / f"certificate.pem.{old[:16]}"
    assert fingerprint_of(kept.read_bytes()) == old
    assert oct((bank.directory / "key.pem").stat().st_mode & 0o777) == "0o600"


def test_an_identity_is_not_overwritten(bank):
    before = bank.fingerprint
    with pytest.raises(FileExistsError, match="rotate"):
        Identity.create(bank.directory, "bank")
    assert bank.fingerprint == before


@pytest.mark.parametrize("name", ["", "Bank", "a b", "ä", "-a", "a/../b", "x" * 64])
def test_names_that_no_certificate_can_have_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be the name"):
        Identity.create(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_an_identity_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="fedtl identity new"):
        Identity(tmp_path)


@pytest.mark.parametrize("pem", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_refused(bank, pem):
    with pytest.raises(ValueError, match="no certificate in PEM form"):
        bank.pin(pem, "0" * 64)
    assert bank.recognise(pem) is None
