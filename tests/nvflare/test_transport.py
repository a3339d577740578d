"""Addresses of NVIDIA FLARE; none of it needs FLARE itself."""

import pytest

from fedtl.exceptions import PartyUnreachable
from fedtl.federation import Federation, Ledger
from fedtl.wire import Describe, Description

pytest.importorskip("grpc", reason="remote parties need the extra remote")


@pytest.fixture
def workspace(tmp_path):
    startup = tmp_path / "bank" / "startup"
    startup.mkdir(parents=True)
    (startup / "fed_client.json").write_text("{}")
    return tmp_path / "bank"


def test_without_a_session_the_error_says_how_to_look_for_one(workspace):
    federation = Federation.connect(credentials=workspace, reconnect=0.2, shop="nvflare://shop")
    [channel] = federation.channels(Ledger())
    with pytest.raises(PartyUnreachable, match=r"'shop': no session .*\('nvflare job list'\)"):
        channel.ask(Describe(), Description)


def test_credentials_must_be_the_workspace_of_a_site(tmp_path):
    with pytest.raises(FileNotFoundError, match="the workspace of this party's own site"):
        Federation.connect(credentials=tmp_path, shop="nvflare://shop")


def test_a_workspace_whose_socket_would_have_too_long_a_name_is_refused(workspace):
    deep = workspace.parent / ("x" * 100)
    deep.mkdir()
    workspace.rename(deep / "bank")
    with pytest.raises(ValueError, match="too long for the name of a socket"):
        Federation.connect(credentials=deep / "bank", shop="nvflare://shop")


@pytest.mark.parametrize("address", ["nvflare://", "nvflare://a/b", "flare://shop", "shop"])
def test_what_is_no_address_is_refused(workspace, address):
    with pytest.raises(ValueError, match=r"is no address.*nvflare://site"):
        Federation.connect(credentials=workspace, shop=address)
