"""Three hospitals with patients of their own as processes with real certificates, on this machine.

    python examples/remote/hospitals.py

Basel and Geneva are ``fedtl serve``, Zurich is this process. All record the same columns. Zurich
fits a scaler and a logistic regression over the patients of all three, and sees totals only; Basel
and Geneva scale their patients as Zurich does its own. They name one another, and would refuse a
total of parties that Zurich has made up.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

try:
    import pandas as pd
    from run import start
except ImportError as error:
    print(f"skipped: {error}; pip install 'fedtl[data,remote]' and pyarrow")
    sys.exit(0)

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import FederatedLogisticRegression, FederatedStandardScaler
from fedtl.federation import Federation
from fedtl.identity import Identity
from fedtl.server import AUDIT, verify

CALLER, PARTNERS, N_PATIENTS = "zurich", ("basel", "geneva"), 120
PARTY = """\
name = "{name}"
listen = "127.0.0.1:0"

[table]
path = "patients.parquet"
target = "malignant"

[policy]
protocols = ["row_session", "secure_sums", "secure_statistics"]
members = ["{other}"]
min_rows = 20
"""


def write_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write a table and a file of settings for each partner; return Zurich's patients and new ones.

    Geneva treats the larger tumours.
    """
    patients = load_breast_cancer(as_frame=True).frame
    patients["malignant"] = 1 - patients.pop("target")
    patients = patients.sample(frac=1.0, random_state=1)
    new, rest = patients[:200], patients[200:].sort_values("mean radius")
    parts = {
        "geneva": rest[-N_PATIENTS:],
        "zurich": rest[:N_PATIENTS],
        "basel": rest[N_PATIENTS:-N_PATIENTS].sample(N_PATIENTS, random_state=0),
    }
    for name, other in (PARTNERS, PARTNERS[::-1]):
        (folder / name).mkdir()
        parts[name].to_parquet(folder / name / "patients.parquet", index=False)
        (folder / name / "party.toml").write_text(PARTY.format(name=name, other=other))
    return parts[CALLER], new


def exchange_certificates(folder: Path) -> None:
    """Make identities, and let each pin the others'."""
    names = (CALLER, *PARTNERS)
    made = {name: Identity.create(folder / name / "identity", name) for name in names}
    for one in names:
        for other in set(names) - {one}:
            made[one].pin(made[other].certificate, made[other].fingerprint)


def main() -> None:
    """Run all three."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own, new = write_tables(folder)
        exchange_certificates(folder)
        X, y = own.drop(columns="malignant"), own["malignant"]
        X_new, y_new = new.drop(columns="malignant"), new["malignant"]
        alone = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
        with ExitStack() as stack:
            addresses = {name: start(folder / name, stack) for name in PARTNERS}
            federation = stack.enter_context(
                Federation.connect(credentials=folder / CALLER / "identity", **addresses)
            )
            together = make_pipeline(
                FederatedStandardScaler(federation=federation),
                FederatedLogisticRegression(federation=federation),
            )
            together.set_output(transform="pandas").fit(X, y)
            print(federation.ledger)
        scores = [
            roc_auc_score(y_new, model.predict_proba(X_new)[:, 1]) for model in (alone, together)
        ]
        print("area under the curve: alone {:.4f}, federated {:.4f}".format(*scores))
        for name in PARTNERS:
            verdict = verify(folder / name / "state" / AUDIT)
            print(f"{name}: {verdict.head.n} lines of audit log, problems: {verdict.problems}")


if __name__ == "__main__":
    main()
