"""Keys and certificates, made with the cryptography library."""

from __future__ import annotations

import datetime
import re
import secrets
from typing import Any

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VALID = datetime.timedelta(days=825)
_SKEW = datetime.timedelta(days=1)
SIGNATURE_BYTES = 64
# Longer than what a handshake lets the other side choose of what this key signs in it.
_PURPOSE = b"fedtl statement/1".ljust(96)


def crypto() -> Any:
    """Return the x509 module, or say which extra installs it."""
    try:
        from cryptography import x509
    except ImportError as error:
        raise ImportError(
            "identities need the cryptography library: pip install 'fedtl[remote]'"
        ) from error
    return x509


def check_name(name: str) -> str:
    """Refuse a name that cannot stand in a certificate as that of a host."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of an identity: lower-case letters, digits and hyphens "
            "only, at most 63, as in 'shop-2'"
        )
    return name


def new_key() -> tuple[Any, bytes]:
    """Make a P-256 key; also return it as PEM."""
    # gRPC's TLS library offers no Ed25519 signatures in its handshake.
    crypto()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, pem


def self_signed(key: Any, name: str) -> bytes:
    """Return a certificate of this key for this name, signed by itself, as PEM."""
    x509 = crypto()
    from cryptography.hazmat.primitives import hashes, serialization

    now = datetime.datetime.now(datetime.UTC)
    # A handshake looks for pinned certificates by their subject: those of an old and a new key
    # of one party must differ in it.
    subject = _subject(name, secrets.token_hex(16))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        # It cannot sign others: who trusts it trusts this one key. gRPC's TLS library takes the
        # first of these for a trust anchor all the same; the second it heeds.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signs_messages_only(), critical=True)
    )
    for extension in _extensions(name):
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(key, hashes.SHA256())
    return bytes(signed.public_bytes(serialization.Encoding.PEM))


def signing_request(key_pem: bytes, name: str) -> bytes:
    """Return a certificate signing request for a common authority, as PEM."""
    x509 = crypto()
    from cryptography.hazmat.primitives import hashes, serialization

    key = serialization.load_pem_private_key(key_pem, password=None)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    for extension in _extensions(name):
        builder = builder.add_extension(extension, critical=False)
    request = builder.sign(key, hashes.SHA256())
    return bytes(request.public_bytes(serialization.Encoding.PEM))


def belongs(certificate_pem: bytes, key_pem: bytes) -> bool:
    """Return whether a certificate is of this key."""
    from cryptography.hazmat.primitives import serialization

    key: Any = serialization.load_pem_private_key(key_pem, password=None)
    return bool(
        crypto().load_pem_x509_certificate(certificate_pem).public_key() == key.public_key()
    )


def signature_of(statement: bytes, key_pem: bytes) -> bytes:
    """Return the signature of a statement, as 64 bytes."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    key: Any = serialization.load_pem_private_key(key_pem, password=None)
    r, s = utils.decode_dss_signature(key.sign(_PURPOSE + statement, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(SIGNATURE_BYTES // 2, "big") + s.to_bytes(SIGNATURE_BYTES // 2, "big")


def is_signed(statement: bytes, signature: bytes, certificate_pem: bytes) -> bool:
    """Return whether a statement was signed by the key of a certificate that is valid today."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    certificate = _load(certificate_pem)
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return False
    key, half = certificate.public_key(), SIGNATURE_BYTES // 2
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != SIGNATURE_BYTES:
        return False
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    try:
        encoded = utils.encode_dss_signature(r, s)
        key.verify(encoded, _PURPOSE + statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def is_issued(certificate_pem: bytes, authorities_pem: bytes) -> bool:
    """Return whether one of these authorities has signed a certificate."""
    from cryptography.exceptions import InvalidSignature

    for authority in crypto().load_pem_x509_certificates(authorities_pem):
        try:
            _load(certificate_pem).verify_directly_issued_by(authority)
        except (InvalidSignature, TypeError, ValueError):
            continue
        return True
    return False


def fingerprint_of(certificate_pem: bytes) -> str:
    """Return a certificate's SHA-256 fingerprint: 64 hexadecimal digits.

    Parameters
    ----------
    certificate_pem : bytes
        The certificate as PEM.

    Returns
    -------
    str
        What ``openssl x509 -fingerprint -sha256`` shows, in lower case and without colons.
    """
    from cryptography.hazmat.primitives import hashes

    return str(_load(certificate_pem).fingerprint(hashes.SHA256()).hex())


def name_of(certificate_pem: bytes) -> str:
    """Return the name that a certificate is for, its first alternative DNS name.

    Parameters
    ----------
    certificate_pem : bytes
        The certificate as PEM.

    Returns
    -------
    str
        A name as :meth:`Identity.create` takes it.

    Raises
    ------
    ValueError
        If it has none.
    """
    x509 = crypto()
    try:
        names = _load(certificate_pem).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return check_name(names.value.get_values_for_type(x509.DNSName)[0])
    except (x509.ExtensionNotFound, IndexError):
        raise ValueError("the certificate names no party as its alternative DNS name") from None


def _load(certificate_pem: bytes) -> Any:
    try:
        return crypto().load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise ValueError(f"no certificate in PEM form: {error}") from None


def _subject(name: str, number: str | None = None) -> Any:
    x509 = crypto()
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))]
    if number is not None:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, number))
    return x509.Name(parts)


def _signs_messages_only() -> Any:
    others = (
        "content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    ).split()
    return crypto().KeyUsage(digital_signature=True, **dict.fromkeys(others, False))


def _extensions(name: str) -> list[Any]:
    x509 = crypto()
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return [
        x509.SubjectAlternativeName([x509.DNSName(name)]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
    ]
