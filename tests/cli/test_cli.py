"""The command does what the tutorial says, and says what is wrong."""

import subprocess
import sys

import pandas as pd
import pytest

pytest.importorskip("grpc")
pytest.importorskip("cryptography")

from fedtl.cli import main
from fedtl.identity import Identity, fingerprint_of
from fedtl.parties import Policy
from fedtl.server import PartyFile, read_table


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_identities_are_made_pinned_revoked_and_rotated(tmp_path, capsys):
    for name in ("bank", "shop"):
        assert run("identity", "new", tmp_path / name, "--name", name) == 0
    certificate = tmp_path / "shop" / "certificate.pem"
    capsys.readouterr()
    assert run("identity", "fingerprint", tmp_path / "shop") == 0
    told = capsys.readouterr().out.strip()
    assert run("identity", "fingerprint", tmp_path / "bank", certificate) == 0
    assert capsys.readouterr().out.strip() == told == fingerprint_of(certificate.read_bytes())
    assert run("identity", "pin", tmp_path / "bank", certificate, "--fingerprint", "12ab") == 1
    assert "not 12ab" in capsys.readouterr().err
    assert run("identity", "pin", tmp_path / "bank", certificate, "--fingerprint", told) == 0
    assert run("identity", "show", tmp_path / "bank") == 0
    assert f"pinned: shop {told}" in capsys.readouterr().out
    assert run("identity", "revoke", tmp_path / "bank", "shop") == 0
    assert Identity(tmp_path / "bank").partners() == []
    assert run("identity", "rotate", tmp_path / "shop") == 0
    assert Identity(tmp_path / "shop").fingerprint != told
    assert run("identity", "request", tmp_path / "shop") == 0
    assert "BEGIN CERTIFICATE REQUEST" in capsys.readouterr().out


TOML = """
name = "shop"
session_hours = 2
[table]
path = "table.csv"
key = "c"
columns = ["b", "a"]
[policy]
protocols = ["session", "moments"]
min_rows = 7
fits_per_day = 3
aligned_ids_per_day = 100
min_intersection = 2
max_table_rows = 1000
max_table_mib = 1
message_mib = 2
dealers = ["notary"]
epsilon = 2
epsilon_days = 30
"""


def test_a_file_says_what_is_served_within_which_bounds(tmp_path, capsys):
    pd.DataFrame({"a": [1, 2], "b": [3.5, 4], "c": ["x", "y"]}).to_csv(
        tmp_path / "table.csv", index=False
    )
    (tmp_path / "party.toml").write_text(TOML)
    party = PartyFile.read(tmp_path / "party.toml")
    assert party.inside(party.credentials) == tmp_path / "identity"
    policy = party.policy.policy()
    assert policy.protocols == {"session", "moments"}
    assert (policy.min_rows, policy.max_fits, policy.max_predicted_rows) == (7, 3, None)
    assert policy.limits.message_bytes == 2 * 2**20
    assert (policy.max_aligned_ids, policy.min_intersection) == (100, 2)
    assert policy.dealers == {"notary"}
    assert (policy.epsilon, policy.delta, policy.epsilon_days) == (2, 1e-5, 30)
    assert (policy.max_table_rows, policy.max_table_bytes) == (1000, 2**20)
    table = read_table("shop", party.folder, tmp_path / "state", policy, party.table)
    assert table.block.columns.tolist() == ["b", "a"]
    again = read_table("shop", party.folder, tmp_path / "state", policy, party.table)
    assert again.key_list.name == table.key_list.name  # positions outlive a restart
    assert (tmp_path / "state" / "alignment.key").stat().st_mode & 0o077 == 0
    assert run("approve", tmp_path / "party.toml", "bank", "--fits", 2) == 0
    assert run("approve", tmp_path / "party.toml", "bank") == 0
    assert "3 fits of bank are approved in all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("min_rows = 7", "min_row = 7"), r"\[policy\]: unknown entries \['min_row'\]"),
        (("min_rows = 7", 'min_rows = "7"'), r"min_rows must be of type int, got '7'"),
        (("min_rows = 7", "min_rows = true"), r"min_rows must be of type int, got True"),
        (('name = "shop"', "name = 5"), "name must be of type str"),
        (('name = "shop"', ""), "missing 1 required .*'name'"),
        (("[table]", "[rows]"), r"unknown entries \['rows'\]"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_place(tmp_path, change, problem):
    file = tmp_path / "party.toml"
    file.write_text(TOML.replace(*change))
    with pytest.raises(ValueError, match=problem) as told:
        PartyFile.read(file)
    assert str(file) in str(told.value)


def test_mistakes_end_with_one_line_and_not_with_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fedtl.cli", "serve", str(tmp_path / "no.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fedtl: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"path": "x.csv"}, "give either path or url, and either key"),
        ({"path": "x.csv", "url": "sqlite://", "key": "id"}, "give either path or url"),
        ({"path": "x.csv", "key": "id", "file": "y"}, r"unknown entries \['file'\]"),
    ],
)
def test_a_table_is_named_once_and_has_a_key(tmp_path, said, problem):
    with pytest.raises(ValueError, match=problem):
        read_table("shop", tmp_path, tmp_path / "state", Policy(), said)
