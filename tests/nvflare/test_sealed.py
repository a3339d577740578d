"""What may pass on the channel of a session, and what a session's job consists of."""

import json

import pytest

pytest.importorskip("nvflare", reason="needs the extra nvflare: scripts/nvflare runs this")

from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, MessageType
from nvflare.fuel.f3.message import Message
from nvflare.fuel.utils import fobs

import fedtl.nvflare
from fedtl.nvflare import _sealed, write_job

SEALED = {
    MessageHeaderKey.SECURE: True,
    MessageHeaderKey.ENCRYPTED: True,
    MessageHeaderKey.PAYLOAD_ENCODING: Encoding.BYTES,
}


def passes(kind, **changed):
    names = {name: getattr(MessageHeaderKey, name) for name in changed}
    headers = SEALED | {names[name]: value for name, value in changed.items()}
    message = Message(headers | {MessageHeaderKey.MSG_TYPE: kind}, b"sealed")
    return _sealed._sealed_only(message) is None, getattr(message, _sealed._SEALED)


@pytest.mark.parametrize("kind", [MessageType.REQ, MessageType.REPLY])
def test_bytes_that_are_encrypted_pass(kind):
    assert passes(kind) == (True, True)


@pytest.mark.parametrize("kind", [MessageType.REQ, MessageType.REPLY])
def test_what_flares_serialiser_would_read_is_dropped(kind):
    assert passes(kind, PAYLOAD_ENCODING=Encoding.FOBS) == (False, False)
    assert passes(kind, PAYLOAD_ENCODING=None) == (False, False)


@pytest.mark.parametrize("missing", ["SECURE", "ENCRYPTED"])
def test_a_request_that_only_claims_to_be_sealed_is_dropped(missing):
    assert passes(MessageType.REQ, **{missing: False}) == (False, False)
    # FLARE's own errors come so; what comes so is never taken for an answer.
    assert passes(MessageType.REPLY, **{missing: False}) == (True, False)


def test_no_type_is_registered_with_flares_serialiser():
    assert fedtl.nvflare.Answering
    registered = fobs.fobs
    known = [*registered._decomposers, *registered._type_name_whitelist]
    assert not [name for name in known if "fedtl" in str(name)]


def test_a_job_names_installed_classes_and_holds_no_code(tmp_path):
    job = write_job(tmp_path / "session", "bank", ["shop", "telecom"])
    files = [path for path in job.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json"}
    text = " ".join(path.read_text() for path in files)
    for name in ("Answering", "Asking", "Session"):
        assert f"fedtl.nvflare.{name}" in text
    meta = json.loads((job / "meta.json").read_text())
    assert meta["deploy_map"]["answering"] == ["shop", "telecom"]
    assert meta["mandatory_clients"] == ["bank", "shop", "telecom"]


@pytest.mark.parametrize("passive", [[], ["bank"], ["shop", "shop"]])
def test_a_job_without_partners_or_with_one_twice_is_refused(tmp_path, passive):
    with pytest.raises(ValueError, match="one site that asks and others that answer"):
        write_job(tmp_path / "session", "bank", passive)
