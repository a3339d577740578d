"""One file a protocol: its messages, both ends, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.parties import Answer
from fedtl.protocols import alignment, cardinality, latent, moments, predict, session

ANSWERS: Mapping[str, tuple[str, Answer]] = {
    alignment.Begin.kind: ("alignment", alignment.answer_begin),
    alignment.Tags.kind: ("alignment", alignment.answer_tags),
    alignment.Blind.kind: ("alignment", alignment.answer_blind),
    cardinality.Count.kind: ("cardinality", cardinality.answer_count),
    session.Open.kind: ("session", session.answer_open),
    session.Prepare.kind: ("session", session.answer_prepare),
    session.End.kind: ("session", session.answer_end),
    moments.MomentsRequest.kind: ("moments", moments.answer_moments),
    moments.Model.kind: ("moments", moments.answer_model),
    latent.Begin.kind: ("latent", latent.answer_begin),
    latent.Exchange.kind: ("latent", latent.answer_exchange),
    latent.Encode.kind: ("latent", latent.answer_encode),
    predict.Request.kind: ("predict", predict.answer_predictions),
}
"""For each kind of request, its protocol and the party's end of it."""

__all__ = ["ANSWERS", "alignment", "cardinality", "latent", "moments", "predict", "session"]
