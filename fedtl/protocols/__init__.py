"""One file a protocol: its messages, both ends, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.parties import Answer
from fedtl.protocols import latent, moments, personal, predict, session, shared, statistics

ANSWERS: Mapping[str, tuple[str, Answer]] = {
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
    "latent",
    "moments",
    "personal",
    "predict",
    "session",
    "shared",
    "statistics",
]
