"""One file a protocol: its messages, both ends, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.parties import Answer
from fedtl.protocols import (
    dealer,
    latent,
    moments,
    predict,
    protected_moments,
    session,
    shared_moments,
)

ANSWERS: Mapping[str, tuple[str, Answer]] = {
    session.Open.kind: ("session", session.answer_open),
    session.Prepare.kind: ("session", session.answer_prepare),
    session.End.kind: ("session", session.answer_end),
    moments.MomentsRequest.kind: ("moments", moments.answer_moments),
    moments.Model.kind: ("moments", moments.answer_model),
    protected_moments.Request.kind: ("protected_moments", protected_moments.answer_moments),
    protected_moments.ProtectedModel.kind: ("protected_moments", moments.answer_model),
    shared_moments.Key.kind: ("shared_moments", shared_moments.answer_key),
    shared_moments.Request.kind: ("shared_moments", shared_moments.answer_moments),
    shared_moments.Model.kind: ("shared_moments", shared_moments.answer_model),
    latent.Begin.kind: ("latent", latent.answer_begin),
    latent.Exchange.kind: ("latent", latent.answer_exchange),
    latent.Encode.kind: ("latent", latent.answer_encode),
    predict.Request.kind: ("predict", predict.answer_predictions),
}
"""For each kind of request, its protocol and the party's end of it."""

__all__ = [
    "ANSWERS",
    "dealer",
    "latent",
    "moments",
    "predict",
    "protected_moments",
    "session",
    "shared_moments",
]
