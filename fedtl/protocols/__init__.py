"""One file a protocol: its messages, both ends, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.parties import Answer
from fedtl.protocols import (
    alignment,
    assistance,
    cardinality,
    dealer,
    latent,
    moments,
    personal,
    predict,
    private_moments,
    protected_moments,
    session,
    shared,
    shared_latent,
    shared_moments,
    statistics,
)

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
    moments.Keep.kind: ("moments", moments.answer_keep),
    assistance.Request.kind: ("assistance", assistance.answer_assistance),
    protected_moments.Request.kind: ("protected_moments", protected_moments.answer_moments),
    protected_moments.ProtectedKeep.kind: ("protected_moments", moments.answer_keep),
    shared_moments.Key.kind: ("shared_moments", shared_moments.answer_key),
    shared_moments.Request.kind: ("shared_moments", shared_moments.answer_moments),
    shared_moments.SharedKeep.kind: ("shared_moments", moments.answer_keep),
    private_moments.Prepare.kind: ("private_moments", private_moments.answer_prepare),
    private_moments.Request.kind: ("private_moments", private_moments.answer_request),
    private_moments.Model.kind: ("private_moments", private_moments.answer_model),
    shared_latent.Begin.kind: ("shared_latent", shared_latent.answer_begin),
    shared_latent.Layer.kind: ("shared_latent", shared_latent.answer_layer),
    shared_latent.Score.kind: ("shared_latent", shared_latent.answer_score),
    shared_latent.Keep.kind: ("shared_latent", shared_latent.answer_keep),
    latent.Begin.kind: ("latent", latent.answer_begin),
    latent.Exchange.kind: ("latent", latent.answer_exchange),
    latent.Encode.kind: ("latent", latent.answer_encode),
    predict.Request.kind: ("predict", predict.answer_predictions),
}
"""For each kind of request, its protocol and the party's end of it."""

ROW_ANSWERS: Mapping[str, tuple[str, Answer]] = {
    statistics.Columns.kind: ("statistics", statistics.answer_columns),
    statistics.ProductsRequest.kind: ("statistics", statistics.answer_products),
    statistics.Newton.kind: ("statistics", statistics.answer_newton),
    shared.Request.kind: ("shared", shared.answer_model),
    personal.Folds.kind: ("personal", personal.answer_folds),
    personal.Offer.kind: ("personal", personal.answer_offer),
    personal.Request.kind: ("personal", personal.answer_scores),
}
"""The same for parties that hold rows of the same kind."""

__all__ = [
    "ANSWERS",
    "ROW_ANSWERS",
    "alignment",
    "assistance",
    "cardinality",
    "dealer",
    "latent",
    "moments",
    "personal",
    "predict",
    "private_moments",
    "protected_moments",
    "session",
    "shared",
    "shared_latent",
    "shared_moments",
    "statistics",
]
