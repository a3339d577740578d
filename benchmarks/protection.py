"""What protection costs: fits over the fit in the clear, sums under encryption, bytes of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.speed import ratio, seconds
from fedtl import Encoder, FederatedTransferClassifier
from fedtl.datasets import fetch_credit_default, make_federated_classification, split_parties
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Table
from fedtl.privacy.secure_aggregation import Group, Member, total
from fedtl.protocols import ANSWERS
from fedtl.protocols.dealer import Dealer, Deals
from fedtl.protocols.latent import Plan, begin, exchange
from fedtl.protocols.protected_moments import ProtectedMoments
from fedtl.protocols.session import open_session, prepare_session
from fedtl.protocols.shared_latent import SharedLatent

_ROWS, _COLUMNS, _FOLDS = 5_000, 18, 5


def _clients(n_rows: int, n_features: int):
    """Rows that two parties share, each with `n_features` numbers, as a classifier's input."""
    return make_federated_classification(n_rows, n_features=n_features, overlap=1.0, random_state=0)


def _fit(data, privacy: str) -> FederatedTransferClassifier:
    clf = FederatedTransferClassifier(
        data.parties, solver="moments", privacy=privacy, random_state=0
    )
    return clf.fit(data.data, data.target)


def _timed_fit(data, privacy: str) -> tuple[float, FederatedTransferClassifier]:
    start = time.perf_counter()
    fitted = _fit(data, privacy)
    return time.perf_counter() - start, fitted


def sharing(repeats: int) -> Iterator[str]:
    """The moments fit with a dealer, the dealer's work included, over the fit in the clear."""
    data = _clients(_ROWS, _COLUMNS)
    whole, phase = [], []
    for _ in range(repeats):
        took, fits = zip(*(_timed_fit(data, p) for p in ("sharing", "none")), strict=True)
        whole.append(took[0] / took[1])
        phase.append(fits[0].report_.seconds["moments"] / fits[1].report_.seconds["moments"])
    yield ratio(f"moments fit under shares / in the clear, {_ROWS:,} rows", whole, 1.5)
    yield f"its moments alone, without anchor and evidence: {np.median(phase):.2f}"


def latent_step(repeats: int) -> Iterator[str]:
    """An exchange of joint training under shares, the dealer's work included, over a clear one.

    Both are about 500 rows and 32 dimensions, features of the other party or its latents.
    """
    n_rows, n_steps = 500, 20
    columns = np.random.default_rng(0).normal(size=(n_rows, 16))
    service = PartyService("passive", Table(columns), Encoder(), ANSWERS)
    channel = InProcessChannel(service, Ledger())
    rows, residuals = np.arange(n_rows), columns[:, :1]
    plan = Plan(members=5, n_components=32, n_exchanges=n_steps, local_updates=1, lr=1e-3)
    gradient = np.ones((5, n_rows, 32), dtype=np.float32)
    clear, shared = [], []
    for _ in range(repeats):
        open_session(channel, "benchmark", rows, resume=False)
        prepare_session(channel, "benchmark", 1, seed=0)
        begin(channel, "benchmark", plan, n_local_rows=0, seed=0, keep_encoder=False)
        exchange(channel, "benchmark", rows, gradient[:, :0])
        step = [
            seconds(lambda: exchange(channel, "benchmark", rows, gradient))
            for _ in range(n_steps - 1)
        ]
        clear.append(float(np.median(step)))
        once = []
        for _ in range(n_steps // 4):
            deals = Deals(InProcessChannel(Dealer(), Ledger()))
            layer = SharedLatent(
                channel, "benchmark", deals, rows=rows, folds=rows % _FOLDS, n_folds=_FOLDS
            )
            assert layer.n_features == 32
            once.append(seconds(lambda layer=layer: layer.scores(residuals)))
        shared.append(float(np.median(once)))
    where = f"{n_rows} rows, 32 dimensions"
    yield ratio(f"latent step under shares / in the clear, {where}", np.divide(shared, clear), 15)
    yield ratio("seconds of a latent step under shares", shared, 0.1)


def paillier(repeats: int) -> Iterator[str]:
    """Moments under Paillier-3072: seconds with and without noise, bytes, and phe for comparison.

    Timed once, whatever `repeats` says. What phe would take, in one process, is extrapolated from a
    sample of its operations: one encryption for each row and target, one product and one sum for
    each row, target and encoded column.
    """
    load = os.getloadavg()[0]
    block = _passive_block()
    service = PartyService("passive", Table(block), Encoder(), ANSWERS)
    ledger = Ledger()
    channel = InProcessChannel(service, ledger)
    open_session(channel, "benchmark", np.arange(_ROWS), resume=False)
    width = prepare_session(channel, "benchmark", 16, seed=0)
    before = ledger.n_bytes
    rng = np.random.default_rng(0)
    targets = np.column_stack([rng.integers(0, 2, _ROWS), rng.random(_ROWS)]).astype(float)
    exchange = ProtectedMoments(3072)
    noise = seconds(lambda: exchange.prepare(_ROWS))
    rest = seconds(
        lambda: exchange.ask_moments(
            channel,
            "benchmark",
            np.arange(_ROWS),
            folds=np.arange(_ROWS) % _FOLDS,
            weight=np.ones(_ROWS),
            targets=targets,
            n_folds=_FOLDS,
        )
    )
    where = f"{_ROWS:,} rows, {_COLUMNS} columns ({width} encoded)"
    load = max(load, os.getloadavg()[0])
    cores = f"{os.cpu_count()} cores, load up to {load:.1f}"
    yield ratio(f"seconds of moments under Paillier, {where}, {cores}", [noise + rest], 60)
    yield ratio("the same without noise", [rest], 20)
    yield ratio("bytes a shared row", [(ledger.n_bytes - before) / _ROWS], 2048)
    try:
        phe = {name: _phe_seconds(width, factor) for name, factor in _PHE_FACTORS.items()}
    except ImportError:
        yield "phe is not installed: no comparison with it"
        return
    mine = noise + rest
    plain, integers = phe.values()
    yield ratio(
        f"Paillier / phe as it is used ({plain:,.0f} s, extrapolated)", [mine / plain], 0.01
    )
    yield f"over phe with 16-bit integers by hand ({integers:,.0f} s): {mine / integers:.4f}"


def paillier_latent(repeats: int) -> Iterator[str]:
    """Joint training on credit default by protection: seconds, bytes a shared row. Timed once.

    Needs the data directory that FEDTL_DATA names. All rows are shared and labelled.
    """
    try:
        credit = fetch_credit_default()
    except FileNotFoundError as error:
        yield f"no joint training under Paillier: {error}"
        return
    for n_rows in (500, 2_000):
        split = split_parties(
            credit.data, credit.target, credit.parties, n_per_party=n_rows, random_state=0
        )
        took = {}
        for privacy in ("none", "sharing", "paillier"):
            load = os.getloadavg()[0]
            clf = FederatedTransferClassifier(
                credit.parties, solver="latent", privacy=privacy, random_state=0
            )
            start = time.perf_counter()
            clf.fit(split.X_train, split.y_train)
            took[privacy] = time.perf_counter() - start
            load = max(load, os.getloadavg()[0])
            cores = f"{os.cpu_count()} cores, load up to {load:.1f}"
            yield (
                f"{n_rows:,} rows, {privacy}: fit {took[privacy]:.1f} s, joint training alone "
                f"{clf.report_.seconds['latent']:.1f} s, "
                f"{clf.report_.n_bytes / n_rows:,.0f} bytes a row ({cores})"
            )
        over = took["paillier"] / took["none"]
        yield ratio(f"latent fit under Paillier / in the clear, {n_rows:,} rows", [over], 10)


def _passive_block() -> np.ndarray:
    data = _clients(_ROWS, _COLUMNS)
    return data.data[list(data.parties.values())[1]].to_numpy()


_PHE_FACTORS: dict[str, float | int] = {"floats": 0.37, "integers": 40_000}


def _phe_seconds(width: int, factor: float, sample: int = 20) -> float:
    """Seconds of a straightforward implementation: encrypt each target, multiply, add."""
    import phe

    public, _ = phe.generate_paillier_keypair(n_length=3072)
    zero = factor - factor
    start = time.perf_counter()
    encrypted = [public.encrypt(zero + i) for i in range(sample)]
    encryption = (time.perf_counter() - start) / sample
    start = time.perf_counter()
    summed = public.encrypt(zero)
    for i, number in enumerate(encrypted * 5):
        summed = summed + number * (factor + i)
    product = (time.perf_counter() - start) / (5 * sample)
    return 2 * _ROWS * (encryption + width * product)


def secure_aggregation(repeats: int) -> Iterator[str]:
    """Seconds of each of ten members that add up a million parameters."""
    names = tuple(f"member {i}" for i in range(10))
    values = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    slowest, taking_off = [], []
    for _ in range(repeats):
        group = Group(names, 7, "benchmark")
        members, spent = {}, dict.fromkeys(names, 0.0)

        def timed(name: str, step: Callable, spent=spent):
            start = time.perf_counter()
            result = step()
            spent[name] += time.perf_counter() - start
            return result

        for name in names:
            members[name] = timed(name, lambda name=name, group=group: Member(name, group))
        keys = {n: timed(n, m.advertise) for n, m in members.items()}
        sent = {n: timed(n, lambda m=m, keys=keys: m.share(keys)) for n, m in members.items()}
        for n, m in members.items():
            mail = {other: part[n] for other, part in sent.items() if other != n}
            timed(n, lambda m=m, mail=mail: m.receive(mail))
        masked = {n: timed(n, lambda m=m: m.mask(values)) for n, m in members.items()}
        left = {n: members[n] for n in names[1:]}
        revealed = {n: timed(n, lambda m=m, s=set(left): m.reveal(s)) for n, m in left.items()}
        del masked[names[0]]
        start = time.perf_counter()
        result = total(group, keys, set(names), masked, revealed)
        taking_off.append(time.perf_counter() - start)
        assert (result == values * np.uint32(9)).all()
        slowest.append(max(spent.values()))
    yield ratio("seconds a member, 1,000,000 parameters, 10 members", slowest, 0.2)
    yield f"and of the aggregator, one member having dropped out: {np.median(taking_off):.3f} s"


def predictions(repeats: int) -> Iterator[str]:
    """What predicting rows takes by protection: milliseconds and bytes a row."""
    data = _clients(1_000, _COLUMNS)
    for privacy in ("none", "sharing", "paillier"):
        fitted = _fit(data, privacy)
        before = fitted.ledger_.n_bytes
        n_times = 1 if privacy == "paillier" else repeats
        took = [seconds(lambda fitted=fitted: fitted.predict(data.data)) for _ in range(n_times)]
        n_bytes = (fitted.ledger_.n_bytes - before) / n_times / 1_000
        yield (
            f"{privacy:10s}{np.median(took):8.3f} ms a row of 1,000, {n_bytes:7,.0f} bytes a row, "
            f"load {os.getloadavg()[0]:.1f}"
        )


def protection_bytes(repeats: int) -> Iterator[str]:
    """Bytes of one fit by protection; the same rows, columns and folds."""
    data = _clients(1_000, 4)
    yield "bytes of a fit, 1,000 shared rows, 4 + 4 columns:"
    yield f"  {'privacy':10s}{'sent':>12s}{'received':>12s}{'messages':>10s}{'a row':>9s}"
    for privacy in ("none", "sharing", "paillier"):
        rows = _fit(data, privacy).ledger_.rows()
        sent, received = (
            sum(row["bytes"] for row in rows if row["direction"] == direction)
            for direction in ("sent", "received")
        )
        count = sum(row["messages"] for row in rows)
        share = (sent + received) / 1_000
        yield f"  {privacy:10s}{sent:12,d}{received:12,d}{count:10d}{share:9,.0f}"


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {
    "sharing": sharing,
    "latent-step": latent_step,
    "paillier": paillier,
    "paillier-latent": paillier_latent,
    "predictions": predictions,
    "secure-aggregation": secure_aggregation,
    "protection-bytes": protection_bytes,
}
