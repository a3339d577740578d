"""A folder with a party's key, its certificate, and its partners' certificates."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedtl.identity._certificates import (
    SIGNATURE_BYTES,
    belongs,
    check_name,
    fingerprint_of,
    is_issued,
    is_signed,
    name_of,
    new_key,
    self_signed,
    signature_of,
    signing_request,
)

__all__ = ["Identity", "Partner", "fingerprint_of", "name_of"]

_KEY, _CERTIFICATE, _AUTHORITY = "key.pem", "certificate.pem", "authority.pem"
_PINS, _REVOKED = "pins", "revoked"
_MOST_PROOF = 2**14


@dataclass(frozen=True)
class Partner:
    """A party that has shown its certificate.

    Parameters
    ----------
    name : str
        Its name: quotas are counted by it, so that a new certificate does not renew them.
    fingerprint : str
        Its certificate's SHA-256 fingerprint.
    """

    name: str
    fingerprint: str


class Identity:
    """What makes a party recognisable, and whom it recognises.

    A partner is recognised by a certificate that is pinned here, or that a common authority has
    signed whose certificate is ``authority.pem``. The folder is read again whenever it changes:
    a partner that is revoked is not answered any more, on connections that are open as well.

    Parameters
    ----------
    directory : str or Path
        The folder. The private key in it must not be readable by others.

    Raises
    ------
    FileNotFoundError
        If it holds no key and certificate.
    PermissionError
        If others may read the key.

    Notes
    -----
    Keys are ECDSA on P-256 (FIPS 186-5), certificates X.509 (RFC 5280).

    Examples
    --------
    >>> import tempfile
    >>> from fedtl.identity import Identity
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bank = Identity.create(f"{folder}/bank", "bank")
    ...     shop = Identity.create(f"{folder}/shop", "shop")
    ...     partner = bank.pin(shop.certificate, shop.fingerprint)
    ...     bank.recognise(shop.certificate) == partner, bank.recognise(bank.certificate)
    (True, None)
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        for file in (_KEY, _CERTIFICATE):
            if not (self.directory / file).is_file():
                raise FileNotFoundError(
                    f"{self.directory} holds no {file}; make an identity with "
                    f"'fedtl identity new {self.directory} --name NAME'"
                )
        mode = (self.directory / _KEY).stat().st_mode
        if os.name == "posix" and mode & 0o077:
            raise PermissionError(
                f"others may read the private key {self.directory / _KEY}: "
                f"chmod 600 {self.directory / _KEY}"
            )
        self._watched = [
            str(self.directory / f) for f in (_PINS, _REVOKED, _AUTHORITY, _CERTIFICATE)
        ]
        self._recognised: dict[bytes, Partner | None] = {}
        self._version: tuple[int, ...] = ()

    @classmethod
    def create(cls, directory: str | Path, name: str) -> Identity:
        """Make a key and a certificate that it signs itself.

        Parameters
        ----------
        directory : str or Path
            Folder, made if it is not there.
        name : str
            Name of the party: lower-case letters, digits and hyphens.

        Returns
        -------
        Identity
            The new identity.

        Raises
        ------
        FileExistsError
            If there is one already.
        """
        directory = Path(directory)
        check_name(name)
        if (directory / _KEY).exists():
            raise FileExistsError(
                f"{directory} has a key already; 'fedtl identity rotate' makes a new one"
            )
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _PINS).mkdir(exist_ok=True)
        key, pem = new_key()
        _write_private(directory / _KEY, pem)
        _replace(directory / _CERTIFICATE, self_signed(key, name))
        return cls(directory)

    @property
    def certificate(self) -> bytes:
        """The certificate, as PEM: to be given to partners."""
        return (self.directory / _CERTIFICATE).read_bytes()

    @property
    def key(self) -> bytes:
        """The private key, as PEM."""
        return (self.directory / _KEY).read_bytes()

    @property
    def name(self) -> str:
        """The name that the certificate is for."""
        return name_of(self.certificate)

    @property
    def fingerprint(self) -> str:
        """The certificate's SHA-256 fingerprint, as 64 hexadecimal digits."""
        return fingerprint_of(self.certificate)

    def request(self) -> bytes:
        """Return a certificate signing request, as PEM, for a common authority."""
        return signing_request(self.key, self.name)

    def install(self, certificate: bytes, authority: bytes) -> None:
        """Take over the certificate that an authority has signed, and trust that authority.

        Parameters
        ----------
        certificate : bytes
            The certificate, as PEM.
        authority : bytes
            The authority's own, as PEM.

        Raises
        ------
        ValueError
            If the certificate is of another key or name.
        """
        if not belongs(certificate, self.key) or name_of(certificate) != self.name:
            raise ValueError("the certificate is of another key or another name than this identity")
        fingerprint_of(authority)
        _replace(self.directory / _AUTHORITY, authority)
        _replace(self.directory / _CERTIFICATE, certificate)

    def pin(self, certificate: bytes, fingerprint: str) -> Partner:
        """Recognise a partner by its certificate.

        Parameters
        ----------
        certificate : bytes
            The partner's certificate, as PEM.
        fingerprint : str
            Its fingerprint as the partner told it by another way, over the telephone say.
            Colons, blanks and case do not matter.

        Returns
        -------
        Partner
            Who is recognised from now on.

        Raises
        ------
        ValueError
            If the fingerprint is not the certificate's.
        """
        found = fingerprint_of(certificate)
        told = fingerprint.replace(":", "").replace(" ", "").lower()
        if told != found:
            raise ValueError(
                f"the certificate has the fingerprint {found}, not {told or 'an empty one'}; ask "
                "the partner again before you trust it"
            )
        partner = Partner(name_of(certificate), found)
        pins = self.directory / _PINS
        pins.mkdir(exist_ok=True)
        _replace(pins / f"{partner.name}.{found[:16]}.pem", certificate)
        return partner

    def revoke(self, name_or_fingerprint: str) -> list[Partner]:
        """Recognise a partner, or one of its certificates, no longer.

        Parameters
        ----------
        name_or_fingerprint : str
            Name of a pinned partner, or fingerprint of any certificate.

        Returns
        -------
        list of Partner
            Who was pinned and is not any more.

        Raises
        ------
        ValueError
            If nobody is pinned under that name and it is no fingerprint.
        """
        gone = []
        for path, partner in self._pinned().items():
            if name_or_fingerprint in (partner.name, partner.fingerprint):
                path.unlink()
                gone.append(partner)
        fingerprints = {partner.fingerprint for partner in gone}
        if len(name_or_fingerprint) == 64:
            fingerprints.add(name_or_fingerprint.lower())
        if not fingerprints:
            pinned = sorted({partner.name for partner in self._pinned().values()})
            raise ValueError(
                f"{name_or_fingerprint!r} is not pinned (pinned: {', '.join(pinned) or 'nobody'}) "
                "and is no fingerprint of 64 digits"
            )
        revoked = sorted(self._revoked() | fingerprints)
        _replace(self.directory / _REVOKED, "".join(f"{f}\n" for f in revoked).encode())
        return gone

    def rotate(self) -> Identity:
        """Make a new key and certificate of the same name; the old ones are kept beside them.

        Returns
        -------
        Identity
            The identity with its new key. Partners have to pin its certificate.
        """
        name, old = self.name, self.fingerprint
        for file in (_KEY, _CERTIFICATE):
            os.replace(self.directory / file, self.directory / f"{file}.{old[:16]}")
        key, pem = new_key()
        _write_private(self.directory / _KEY, pem)
        _replace(self.directory / _CERTIFICATE, self_signed(key, name))
        return Identity(self.directory)

    def partners(self) -> list[Partner]:
        """Return who is pinned."""
        return sorted(self._pinned().values(), key=lambda partner: partner.name)

    def trust(self, name: str | None = None) -> bytes:
        """Return the certificates that a handshake is checked against, as PEM.

        Parameters
        ----------
        name : str, optional
            Only those of one partner, and the authority's.

        Returns
        -------
        bytes
            One certificate after the other; empty where there is none.
        """
        parts = [
            path.read_bytes()
            for path, partner in self._pinned().items()
            if name in (None, partner.name)
        ]
        if (self.directory / _AUTHORITY).exists():
            parts.append((self.directory / _AUTHORITY).read_bytes())
        return b"\n".join(parts)

    def recognise(self, certificate: bytes) -> Partner | None:
        """Return who has shown a certificate that passed the handshake.

        Parameters
        ----------
        certificate : bytes
            The certificate, as PEM.

        Returns
        -------
        Partner or None
            None for whoever is not pinned, and not signed by the authority, or is revoked.
        """
        version = self.version
        if version != self._version:
            self._recognised, self._version = {}, version
        if certificate not in self._recognised:
            if len(self._recognised) > 1000:
                self._recognised.clear()
            self._recognised[certificate] = self._recognise(certificate)
        return self._recognised[certificate]

    def sign(self, statement: bytes) -> bytes:
        """Sign a statement for partners that are not on the line.

        Parameters
        ----------
        statement : bytes
            What is stated; it has to say what it is for.

        Returns
        -------
        bytes
            The proof: the signature and this identity's certificate.
        """
        return signature_of(statement, self.key) + self.certificate

    def signer(self, statement: bytes, proof: bytes) -> str | None:
        """Return who has signed a statement.

        Parameters
        ----------
        statement : bytes
            What is stated.
        proof : bytes
            From :meth:`sign` of the other identity.

        Returns
        -------
        str or None
            Name of the partner; None if nobody has who is recognised here.
        """
        signature, certificate = proof[:SIGNATURE_BYTES], proof[SIGNATURE_BYTES:]
        partner = self.recognise(certificate) if len(proof) <= _MOST_PROOF else None
        if partner is None or not is_signed(statement, signature, certificate):
            return None
        # No handshake has looked at this certificate.
        pinned = partner in self._pinned().values()
        return partner.name if pinned or self._is_issued(certificate) else None

    @property
    def version(self) -> tuple[int, ...]:
        """Something that changes whenever the folder does."""
        return tuple(map(_changed_at, self._watched))  # asked at every call: no Path objects

    def _recognise(self, certificate: bytes) -> Partner | None:
        try:
            partner = Partner(name_of(certificate), fingerprint_of(certificate))
        except ValueError:
            return None
        if partner.fingerprint in self._revoked():
            return None
        if partner in self._pinned().values() or (self.directory / _AUTHORITY).exists():
            return partner
        return None

    def _is_issued(self, certificate: bytes) -> bool:
        authority = self.directory / _AUTHORITY
        return authority.exists() and is_issued(certificate, authority.read_bytes())

    def _pinned(self) -> dict[Path, Partner]:
        pinned = {}
        for path in sorted((self.directory / _PINS).glob("*.pem")):
            pem = path.read_bytes()
            pinned[path] = Partner(name_of(pem), fingerprint_of(pem))
        return pinned

    def _revoked(self) -> frozenset[str]:
        path = self.directory / _REVOKED
        return frozenset(path.read_text().split()) if path.exists() else frozenset()

    def __repr__(self) -> str:
        return f"Identity({str(self.directory)!r})"


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(data)
    os.replace(draft, path)
