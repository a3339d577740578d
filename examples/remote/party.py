"""Split one table into a bank's, a shop's and a telecom's part, as files in a folder each."""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

NAMES = ("bank", "shop", "telecom")
# Ten measurements, each three times, stand in for what three organisations know of the same
# people. The bank has the weak ones, and the labels.
MEASUREMENTS = {"bank": (4, 8, 9), "shop": (0, 2, 3), "telecom": (1, 5, 6, 7)}
PARTY = """\
name = "{name}"
listen = "127.0.0.1:{port}"
health = "127.0.0.1:{health}"

[table]
path = "table.parquet"
key = "customer"

[policy]
protocols = ["alignment", "session", "moments", "predict", "protected_moments", "protected_predict",
    "shared_moments", "shared_predict"]
dealers = ["notary"]
min_rows = 20
fits_per_day = 100
predicted_rows_per_day = 100000
aligned_ids_per_day = 100000
min_intersection = 50
shows_columns = true
"""
DEALER = """\
name = "notary"
listen = "127.0.0.1:{port}"
"""


def write_tables(folder: Path) -> None:
    """Write each party's table, in an order of its own, with the customers' ids."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    for i, name in enumerate(NAMES):
        own = X.iloc[:, [c for c in range(30) if c % 10 in MEASUREMENTS[name]]].copy()
        own.insert(0, "customer", [f"C{number:05d}" for number in range(len(own))])
        if name == "bank":
            own["label"] = y
        else:  # Each partner does not know a tenth of the bank's customers.
            own = own.sample(frac=0.9, random_state=i)
        (folder / name).mkdir(parents=True, exist_ok=True)
        own.to_parquet(folder / name / "table.parquet", index=False)


def write_settings(folder: Path, ports: dict[str, tuple[int, int]]) -> None:
    """Write the partners' files: port 0 takes any that is free."""
    for name, (port, health) in ports.items():
        text = PARTY.format(name=name, port=port, health=health)
        (folder / name / "party.toml").write_text(text)


def write_dealer(folder: Path, port: int) -> None:
    """Write the file of a dealer, who has no table."""
    (folder / "notary").mkdir(parents=True, exist_ok=True)
    (folder / "notary" / "dealer.toml").write_text(DEALER.format(port=port))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_tables(target)
    write_settings(target, {"shop": (9443, 9480), "telecom": (9444, 9481)})
    write_dealer(target, 9445)
    print(f"wrote the tables of {', '.join(NAMES)} to {target}")
