"""Nobody unpinned gets past the handshake, and nobody revoked is answered."""

import datetime

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedtl.exceptions import PartyUnreachable
from fedtl.federation import Federation
from fedtl.identity import Identity
from fedtl.parties import Policy
from fedtl.protocols.session import open_session
from fedtl.server import serve
from fedtl.wire import Limits, WireError


def call(address, trusted, key=None, certificate=None, name="shop"):
    """Ask with a bare gRPC channel, and return the error, or None."""
    credentials = grpc.ssl_channel_credentials(trusted, key, certificate)
    options = [("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            channel.unary_unary("/fedtl.Party/Ask")(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return None


def signed_by(identity, name, ca=False):
    """A certificate that somebody signs with a party's key."""
    issuer = x509.load_pem_x509_certificate(identity.certificate)
    signer = serialization.load_pem_private_key(identity.key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM) + identity.certificate


def test_the_handshake_refuses_whoever_is_not_pinned(world):
    there = world()
    address, shop = there.servers["shop"].address, there.identities["shop"]
    bank = there.identities["bank"]
    stranger = Identity.create(there.folder / "stranger", "bank")  # of the same name
    assert call(address, shop.certificate, bank.key, bank.certificate) is None
    lines = there.audit_log().read_text().count("\n")
    refused = grpc.StatusCode.UNAVAILABLE
    assert call(address, shop.certificate) == refused
    assert call(address, shop.certificate, stranger.key, stranger.certificate) == refused
    assert call(address, shop.certificate, *signed_by(bank, "bank")) == refused
    assert call(address, shop.certificate, shop.key, shop.certificate) == refused
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/fedtl.Party/Ask")(b"", timeout=5)
    assert there.audit_log().read_text().count("\n") == lines  # none of them reached the service


def test_a_party_without_partners_lets_nobody_in(tmp_path):
    shop = Identity.create(tmp_path / "shop", "shop")
    bank = Identity.create(tmp_path / "bank", "bank")
    table = np.ones((3, 1))
    with serve("shop", table, credentials=shop.directory, state=tmp_path) as server:
        assert call(server.address, shop.certificate, bank.key, bank.certificate) is not None
        assert call(server.address, shop.certificate, shop.key, shop.certificate) == (
            grpc.StatusCode.UNAUTHENTICATED
        )
        # Pinned while the service runs, it is let in.
        shop.pin(bank.certificate, bank.fingerprint)
        assert call(server.address, shop.certificate, bank.key, bank.certificate) is None


def test_whoever_is_revoked_is_not_answered_on_an_open_connection(world):
    there = world()
    federation = there.connect()
    assert "protocols" in federation.describe()["shop"]
    there.identities["shop"].revoke("bank")
    told = federation.describe()["shop"]["error"]
    assert "does not recognise this party's certificate" in told
    assert there.identities["bank"].fingerprint in told
    assert "not pinned, or revoked" in there.audit_log().read_text()


def test_a_party_that_is_not_who_it_should_be_is_not_asked(world):
    there = world()
    federation = there.connect()
    stranger = Identity.create(there.folder / "stranger", "shop")
    there.identities["bank"].revoke("shop")
    with pytest.raises(PartyUnreachable, match="no certificate of 'shop' is pinned"):
        open_session(*federation.channels(federation.ledger), "s", np.arange(3), resume=False)
    there.identities["bank"].pin(stranger.certificate, stranger.fingerprint)
    with pytest.raises(PartyUnreachable, match="not the certificate that is pinned for 'shop'"):
        open_session(*federation.channels(federation.ledger), "s", np.arange(3), resume=False)


def test_one_partner_cannot_pose_as_another(tmp_path, identities):
    made = identities("shop", "post")
    with serve(
        "post", np.ones((3, 1)), credentials=made["post"].directory, state=tmp_path
    ) as server:
        federation = Federation.connect(credentials=made["bank"].directory, shop=server.address)
        assert "not the certificate that is pinned" in federation.describe()["shop"]["error"]
        federation.close()


def test_a_new_key_is_used_once_both_sides_know_it(world):
    there = world()
    federation = there.connect(reconnect=1.0)
    old = there.identities["bank"].fingerprint
    new = there.identities["bank"].rotate()
    assert "error" in federation.describe()["shop"]
    there.identities["shop"].pin(new.certificate, new.fingerprint)
    assert "protocols" in federation.describe()["shop"]
    there.identities["shop"].revoke(old)
    assert "protocols" in federation.describe()["shop"]
    assert there.servers["shop"].endpoint.caller("bank")


def test_a_common_authority_lets_in_whom_it_has_signed(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "consortium")])
    now = datetime.datetime.now(datetime.UTC)

    def certify(public_key, name, extensions, ca):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(subject)
        builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=9))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority = certify(key.public_key(), subject, [], ca=True)
    made = {name: Identity.create(tmp_path / name, name) for name in ("bank", "shop", "post")}
    for identity in made.values():
        request = x509.load_pem_x509_csr(identity.request())
        signed = certify(request.public_key(), request.subject, request.extensions, ca=False)
        identity.install(signed, authority)
    # No handshake looks at the certificate behind a statement.
    liar = Identity.create(tmp_path / "liar", "shop")
    assert made["bank"].signer(b"said", made["shop"].sign(b"said")) == "shop"
    assert made["bank"].signer(b"said", liar.sign(b"said")) is None
    with serve(
        "shop", np.ones((3, 1)), credentials=made["shop"].directory, state=tmp_path
    ) as server:
        federation = Federation.connect(
            credentials=made["bank"].directory, shop=server.address, reconnect=1.0
        )
        assert "protocols" in federation.describe()["shop"]
        made["shop"].revoke(made["bank"].fingerprint)
        assert "does not recognise" in federation.describe()["shop"]["error"]
        federation.close()
        # What the authority has signed for another name is not the shop.
        wrong = Federation.connect(
            credentials=made["post"].directory, bank=server.address, reconnect=1.0
        )
        assert "error" in wrong.describe()["bank"]
        wrong.close()
    with pytest.raises(ValueError, match="another key"):
        made["shop"].install(made["bank"].certificate, authority)


def test_a_message_beyond_the_limit_is_refused_before_it_is_taken_in(world):
    there = world(policy=Policy(limits=Limits(message_bytes=100_000)))
    federation = there.connect()
    lines = there.audit_log().read_text().count("\n")
    with pytest.raises(WireError, match="'shop': does not accept a message of this size"):
        open_session(*federation.channels(federation.ledger), "s", np.arange(10**6), resume=False)
    assert there.audit_log().read_text().count("\n") == lines


def test_an_identity_of_another_name_is_refused(tmp_path, identities):
    identities("shop")
    with pytest.raises(ValueError, match="'shop', not of 'post'"):
        serve("post", np.ones((3, 1)), credentials=tmp_path / "shop", state=tmp_path)


def test_an_address_that_is_taken_is_refused_and_the_log_is_let_go(tmp_path, identities):
    made = identities("shop")
    settings = {"credentials": made["shop"].directory}
    with (
        serve("shop", np.ones((3, 1)), state=tmp_path / "a", **settings) as server,
        pytest.raises(OSError, match="cannot listen"),
    ):
        serve("shop", np.ones((3, 1)), state=tmp_path / "b", address=server.address, **settings)
    serve("shop", np.ones((3, 1)), state=tmp_path / "b", **settings).stop()
