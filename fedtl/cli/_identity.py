"""``fedtl identity``: keys, certificates, and whom to recognise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fedtl.identity import Identity, fingerprint_of, name_of


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    identity = commands.add_parser("identity", help="keys, certificates, and whom to recognise")
    actions = identity.add_subparsers(title="actions", required=True, metavar="ACTION")

    def action(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
        parser.add_argument("folder", type=Path, help="folder of the identity")
        parser.set_defaults(run=run)
        return parser

    action("new", new, "make a key and a certificate").add_argument(
        "--name", required=True, help="name of the party"
    )
    action("show", show, "print name, fingerprint and pinned partners")
    action("fingerprint", fingerprint, "print a fingerprint to read out to a partner").add_argument(
        "certificate", type=Path, nargs="?", help="another certificate than the identity's own"
    )
    pin_parser = action("pin", pin, "recognise a partner by its certificate")
    pin_parser.add_argument("certificate", type=Path, help="the partner's certificate")
    pin_parser.add_argument(
        "--fingerprint", required=True, help="its fingerprint, as the partner told it itself"
    )
    action("revoke", revoke, "recognise a partner no longer").add_argument(
        "partner", help="its name, or the fingerprint of one certificate"
    )
    action("rotate", rotate, "make a new key and certificate of the same name")
    action("request", request, "print a certificate signing request for a common authority")
    install_parser = action("install", install, "take over what the authority has signed")
    install_parser.add_argument("certificate", type=Path, help="the signed certificate")
    install_parser.add_argument("--authority", type=Path, required=True, help="the authority's own")


def new(options: argparse.Namespace) -> int:
    """Make an identity."""
    _print(Identity.create(options.folder, options.name))
    return 0


def show(options: argparse.Namespace) -> int:
    """Print an identity and its partners."""
    identity = Identity(options.folder)
    _print(identity)
    for partner in identity.partners():
        print(f"pinned: {partner.name} {partner.fingerprint}")
    return 0


def fingerprint(options: argparse.Namespace) -> int:
    """Print a fingerprint."""
    if options.certificate is None:
        print(Identity(options.folder).fingerprint)
    else:
        print(fingerprint_of(options.certificate.read_bytes()))
    return 0


def pin(options: argparse.Namespace) -> int:
    """Pin a partner's certificate."""
    partner = Identity(options.folder).pin(options.certificate.read_bytes(), options.fingerprint)
    print(f"pinned: {partner.name} {partner.fingerprint}")
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Revoke a partner."""
    for partner in Identity(options.folder).revoke(options.partner):
        print(f"revoked: {partner.name} {partner.fingerprint}")
    return 0


def rotate(options: argparse.Namespace) -> int:
    """Make a new key."""
    _print(Identity(options.folder).rotate())
    print("start the service anew, and have every partner pin the new certificate")
    return 0


def request(options: argparse.Namespace) -> int:
    """Print a signing request."""
    sys.stdout.write(Identity(options.folder).request().decode())
    return 0


def install(options: argparse.Namespace) -> int:
    """Install a signed certificate."""
    identity = Identity(options.folder)
    identity.install(options.certificate.read_bytes(), options.authority.read_bytes())
    _print(identity)
    return 0


def _print(identity: Identity) -> None:
    print(f"name: {name_of(identity.certificate)}")
    print(f"fingerprint: {identity.fingerprint}")
    print(f"certificate: {identity.directory / 'certificate.pem'}")
