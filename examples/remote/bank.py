"""The bank: it has the labels, asks the others, and cross-validates.

    python bank.py FOLDER shop=HOST:PORT telecom=HOST:PORT [--dealer notary=HOST:PORT]

With a dealer, the fit is protected by secret shares, and by encryption without.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from sklearn.model_selection import cross_val_score

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.federation import Federation
from fedtl.privacy import SecretSharing


def main(
    folder: Path,
    credentials: str | Path | None = None,
    dealer: dict[str, str] | None = None,
    **addresses: str,
) -> float:
    """Compare the bank alone with the federation, and return the federation's score."""
    table = pd.read_parquet(folder / "table.parquet").set_index("customer")
    y = table.pop("label")
    # The index of X holds the ids, by which the others find their own rows.
    alone = FederatedTransferClassifier(
        [("bank", Encoder(), list(table.columns))], solver="moments", random_state=0
    )
    before = cross_val_score(alone, table, y, cv=3, scoring="roc_auc").mean()
    credentials = credentials or folder / "identity"
    with Federation.connect(credentials=credentials, **addresses) as federation:
        for name, told in federation.describe().items():
            print(f"{name}: {told.get('error') or told['protocols']}")
        clf = FederatedTransferClassifier(
            [("bank", Encoder(), list(table.columns))],
            federation=federation,
            solver="moments",
            privacy=SecretSharing(dealer=dealer) if dealer else "auto",
            random_state=0,
        )
        after = cross_val_score(clf, table, y, cv=3, scoring="roc_auc").mean()
        clf.fit(table, y)
        print(clf.report_)
        print(f"sessions at the shop: {federation.describe()['shop']['sessions']}")
        print(federation.ledger)
    print(f"area under the curve, cross-validated: alone {before:.4f}, federated {after:.4f}")
    return float(after)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--dealer")
    told = parser.parse_args()
    main(
        told.folder,
        dealer=dict([told.dealer.split("=", 1)]) if told.dealer else None,
        **dict(address.split("=", 1) for address in told.addresses),
    )
