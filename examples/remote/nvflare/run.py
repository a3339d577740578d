"""Bank, shop and telecom over NVIDIA FLARE, with provisioned certificates, on this machine.

    python -m examples.remote.nvflare.run

The FLARE server and the three sites are processes of their own; the bank's program is this one, and
is that of ``examples/remote/bank.py``. What is done here by a script is done by people in
docs/nvflare.md.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

try:
    import nvflare  # noqa: F401
    import pandas as pd
except ImportError as error:
    print(f"skipped: {error}; pip install 'fedtl[nvflare]'")
    sys.exit(0)

from examples.remote import bank, party
from examples.remote.nvflare.sites import Sites
from fedtl.server import AUDIT, verify

PARTNERS = ("shop", "telecom")
POLICY = """\
protocols = ["alignment", "session", "moments", "predict", "protected_moments",
    "protected_predict"]
min_rows = 20
fits_per_day = 100
min_intersection = 50"""


def main() -> None:
    """Run all of it."""
    folder = Path(tempfile.mkdtemp(prefix="fl"))  # short: the bank's socket has a long name
    try:
        with Sites(folder) as sites:
            sites.provision()
            party.write_tables(folder)
            for name in PARTNERS:
                table = pd.read_parquet(folder / name / "table.parquet")
                sites.set_up_party(name, table, POLICY)
                sites.forbid_pushed_code(name)
            sites.start("localhost")
            sites.wait_for_sites(0)
            sites.start("bank", *PARTNERS)
            sites.wait_for_sites(3)
            job = sites.open_session(*PARTNERS)
            addresses = {name: f"nvflare://{name}" for name in PARTNERS}
            bank.main(folder / "bank", sites.workspace("bank"), **addresses)
            print("session:", sites.close_session(job))
            for name in PARTNERS:
                verdict = verify(sites.workspace(name) / "party" / "state" / AUDIT)
                print(f"{name}: {verdict.head.n} lines of audit log, problems: {verdict.problems}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
