"""With remote parties, the active party records what it sends and receives."""

import numpy as np

from fedtl import FederatedTransferClassifier
from fedtl.federation import record_transcript
from fedtl.inspection import leakage_report


def test_what_the_active_party_sees_is_recorded_and_can_be_attacked(world, data):
    made = data()
    handle = world(made).connect()
    remote = FederatedTransferClassifier(
        made.parties[:1], solver="moments", privacy="none", federation=handle, random_state=0
    )
    simulated = FederatedTransferClassifier(made.parties, solver="moments", random_state=0)
    with record_transcript() as crossed:
        remote.fit(made.own, made.y)
    with record_transcript() as expected:
        simulated.fit(made.X, made.y)
    kinds = [m.kind for m in crossed.seen_by("shop") if not m.kind.startswith("alignment.")]
    assert kinds == [m.kind for m in expected.seen_by("shop")]
    for kind, name in (("moments.sums", "gram"), ("moments.held_out", "held_out")):
        one, two = (t.openings("shop", kind)[0][name] for t in (crossed, expected))
        np.testing.assert_allclose(one, two)
    report = leakage_report(remote, made.own, made.y, transcript=crossed)
    direct = {f.source: f.score.value for f in report.findings if f.attack == "direct"}
    assert direct["moments.request/1: targets"] == 1.0
    whys = {f.why for f in report.findings if f.number in ("4", "5", "5b")}
    assert whys == {"the party's columns are not at hand"}
