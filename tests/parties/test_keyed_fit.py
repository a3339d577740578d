"""A fit with a party that has a table of its own is the fit with its columns in X."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import cross_val_score

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.alignment import AlignmentCache
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Simulation
from fedtl.federation._simulation import SimulatedParties
from fedtl.parties import KeyedTable, PartyService, Policy
from fedtl.protocols.alignment import KeyedChannel

N = 240
BANK, SHOP = ["income", "age"], ["orders", "city"]


class Tables(Simulation):
    """Parties whose columns are not in X: their block of X is the key."""

    def __init__(self, table, **options):
        super().__init__(serialize=True)
        self.table, self.options, self.cache = table, options, AlignmentCache()
        self.policy = options.pop("policy", None)

    def parties(self, recipes, answers):
        services = [
            PartyService(name, self.table, recipe, answers, policy=self.policy, usage=usage)
            for name, recipe in recipes.items()
            for usage in [self._usage[name]]
        ]
        return Keyed(services, self)


class Keyed(SimulatedParties):
    def __init__(self, services, federation):
        super().__init__(services, serialize=True)
        self.federation = federation

    def channels(self, blocks, ledger):
        return [
            KeyedChannel(
                InProcessChannel(service, ledger, serialize=True),
                block.iloc[:, 0],
                cache=self.federation.cache,
                **self.federation.options,
            )
            for service, block in zip(self.services, blocks, strict=True)
        ]


@pytest.fixture(scope="module")
def rows():
    """Rows of a bank with a customer number; the shop knows two in three of them."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(N, 2))
    frame = pd.DataFrame(
        {
            "customer": pd.Series([f"C{i:04d}" for i in rng.permutation(N)], dtype=object),
            "income": factors[:, 0] + 0.3 * rng.normal(size=N),
            "age": rng.normal(size=N),
            "orders": np.round(3 * factors[:, 1] + 0.3 * rng.normal(size=N), 3),
            "city": pd.Series(rng.choice(["Ulm", "Köln"], N), dtype=object),
        }
    )
    frame.loc[rng.random(N) < 0.1, BANK] = np.nan
    frame.loc[rng.random(N) < 0.3, SHOP] = None
    known = frame[[*BANK, *SHOP]].notna().any(axis=1)
    return frame[known].reset_index(drop=True), (factors.sum(axis=1) > 0).astype(int)[known]


def classifier(columns, federation=None, solver="auto"):
    return FederatedTransferClassifier(
        [("bank", Encoder(), BANK), ("shop", Encoder(), columns)],
        federation=federation,
        solver=solver,
        privacy="none",
        max_iter=8,
        random_state=0,
    )


def of_shop(frame):
    return frame.loc[frame[SHOP].notna().any(axis=1), ["customer", *SHOP]]


def in_a_frame(frame, tmp_path, url):
    return {"source": of_shop(frame)}


def in_parquet(frame, tmp_path, url):
    of_shop(frame).to_parquet(tmp_path / "shop.parquet")
    return {"source": tmp_path / "shop.parquet", "columns": SHOP}


def in_postgresql(frame, tmp_path, url):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"postgresql+psycopg://{url}")
    of_shop(frame).to_sql("shop", engine, index=True, index_label="row", if_exists="replace")
    engine.dispose()
    query = "SELECT customer, orders, city FROM shop ORDER BY row"
    return {"source": f"postgresql+psycopg://{url}", "query": query}


def test_a_frame_a_parquet_file_and_postgresql_give_the_model_of_columns_in_x(
    rows, tmp_path, postgresql
):
    frame, y = rows
    plain = classifier(SHOP).fit(frame, y)
    new = frame.iloc[::-1].assign(customer=frame["customer"][::-1])
    expected = plain.predict_proba(new), plain.transform(new)
    for place in (in_a_frame, in_parquet, in_postgresql):
        table = KeyedTable("shop", key="customer", **place(frame, tmp_path, postgresql))
        remote = classifier(["customer"], Tables(table)).fit(frame[["customer", *BANK]], y)
        asked = new[["customer", *BANK]]
        assert remote.predict_proba(asked).tobytes() == expected[0].tobytes(), place
        assert remote.transform(asked).tobytes() == expected[1].tobytes(), place
        kinds = [row["kind"] for row in remote.ledger_.rows()]
        assert kinds.count("alignment.blind/1") == 1


def test_a_cross_validation_asks_about_each_id_once(rows):
    frame, y = rows
    federation = Tables(KeyedTable("shop", of_shop(frame), key="customer"))
    clf = classifier(["customer"], federation, solver="moments")
    scores = cross_val_score(clf, frame[["customer", *BANK]], y, cv=4, scoring="roc_auc")
    assert scores.mean() > 0.75
    usage = federation._usage["shop"]
    assert (usage.fits, usage.aligned_ids) == (4, len(frame))


def test_a_fit_on_too_few_shared_rows_ends_with_the_reason_and_leaves_no_session(rows):
    frame, y = rows
    shop = of_shop(frame)
    table = KeyedTable("shop", shop, key="customer")
    X = frame[["customer", *BANK]]
    strict = Tables(table, policy=Policy(min_intersection=len(shop) + 1))
    with pytest.raises(PolicyRefusal, match=f"{len(shop)} rows or fewer are shared"):
        classifier(["customer"], strict, solver="moments").fit(X, y)
    asking = Tables(table, min_intersection=len(shop) + 1)
    with pytest.raises(PartyError, match=f"has {len(shop)} of the {len(frame)} different ids"):
        classifier(["customer"], asking, solver="moments").fit(X, y)
    enough = Tables(table, min_intersection=len(shop))
    clf = classifier(["customer"], enough, solver="moments").fit(X, y)
    clf.predict(X.iloc[:3])  # the minimum is for a fit


def test_a_table_with_new_customers_serves_predictions_of_an_earlier_fit(rows):
    frame, y = rows
    shop, X = of_shop(frame), frame[["customer", *BANK]]
    federation = Tables(KeyedTable("shop", shop, key="customer"))
    clf = classifier(["customer"], federation, solver="moments").fit(X, y)
    before = clf.predict_proba(X)
    stranger = pd.DataFrame({"customer": ["new"], "orders": [1.5], "city": ["Ulm"]})
    for service in clf.services_.services:
        service.table = KeyedTable("shop", pd.concat([stranger, shop]), key="customer")
    assert clf.predict_proba(X).tobytes() == before.tobytes()
