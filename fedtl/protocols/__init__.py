"""One file a protocol: its messages, both ends, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.learning.local import LocalRecipe
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
    private_latent,
    private_moments,
    private_rounds,
    protected_latent,
    protected_moments,
    protected_predict,
    rounds,
    row_session,
    secure_rounds,
    secure_statistics,
    secure_sums,
    session,
    shared,
    shared_latent,
    shared_moments,
    shared_predict,
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
    protected_moments.Keep.kind: ("protected_moments", protected_moments.answer_keep),
    shared_moments.Key.kind: ("shared_moments", shared_moments.answer_key),
    shared_moments.Request.kind: ("shared_moments", shared_moments.answer_moments),
    private_latent.Release.kind: ("private_latent", private_latent.answer_release),
    private_moments.Prepare.kind: ("private_moments", private_moments.answer_prepare),
    private_moments.Request.kind: ("private_moments", private_moments.answer_request),
    private_moments.Model.kind: ("private_moments", private_moments.answer_model),
    shared_latent.Begin.kind: ("shared_latent", shared_latent.answer_begin),
    shared_latent.Layer.kind: ("shared_latent", shared_latent.answer_layer),
    shared_latent.Score.kind: ("shared_latent", shared_latent.answer_score),
    protected_latent.Begin.kind: ("protected_latent", protected_latent.answer_begin),
    protected_latent.Score.kind: ("protected_latent", protected_latent.answer_score),
    protected_latent.Layer.kind: ("protected_latent", protected_latent.answer_layer),
    latent.Begin.kind: ("latent", latent.answer_begin),
    latent.Exchange.kind: ("latent", latent.answer_exchange),
    latent.Encode.kind: ("latent", latent.answer_encode),
    predict.Request.kind: ("predict", predict.answer_predictions),
    protected_predict.Request.kind: ("protected_predict", protected_predict.answer_predictions),
    shared_predict.Key.kind: ("shared_predict", shared_predict.answer_key),
    shared_predict.Request.kind: ("shared_predict", shared_predict.answer_predictions),
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
    secure_statistics.SecureColumns.kind: (
        "secure_statistics",
        secure_statistics.answer_secure_columns,
    ),
    secure_statistics.SecureProducts.kind: (
        "secure_statistics",
        secure_statistics.answer_secure_products,
    ),
    secure_statistics.SecureNewton.kind: (
        "secure_statistics",
        secure_statistics.answer_secure_newton,
    ),
    secure_sums.Begin.kind: ("secure_sums", secure_sums.answer_begin),
    secure_sums.Share.kind: ("secure_sums", secure_sums.answer_share),
    secure_sums.Reveal.kind: ("secure_sums", secure_sums.answer_reveal),
}
"""The same for parties that hold rows of the same kind."""

REMOTE_ROW_ANSWERS: Mapping[str, tuple[str, Answer]] = {
    row_session.Labels.kind: ("row_session", row_session.answer_labels),
    row_session.Open.kind: ("row_session", row_session.answer_open),
    **{kind: answer for kind, answer in ROW_ANSWERS.items() if kind != personal.Request.kind},
}
"""The same for those with tables of their own, who serve their own rows without being asked."""


def tuning_answers(recipe: LocalRecipe) -> Mapping[str, tuple[str, Answer]]:
    """Return the same for training in rounds, for a party that has the model and how to train it.

    Parameters
    ----------
    recipe : LocalRecipe
        The model.

    Returns
    -------
    mapping of str to (str, callable)
        By kinds of requests, the name of the protocol and the function that answers.
    """
    protocols = (rounds, private_rounds, secure_rounds)
    own = {kind: end for each in protocols for kind, end in each.answers(recipe).items()}
    sums = {kind: end for kind, end in ROW_ANSWERS.items() if end[0] == "secure_sums"}
    return {**sums, **own}


__all__ = [
    "ANSWERS",
    "REMOTE_ROW_ANSWERS",
    "ROW_ANSWERS",
    "alignment",
    "assistance",
    "cardinality",
    "dealer",
    "latent",
    "moments",
    "personal",
    "predict",
    "private_latent",
    "private_moments",
    "private_rounds",
    "protected_latent",
    "protected_moments",
    "protected_predict",
    "rounds",
    "row_session",
    "secure_rounds",
    "secure_statistics",
    "secure_sums",
    "session",
    "shared",
    "shared_latent",
    "shared_moments",
    "shared_predict",
    "statistics",
    "tuning_answers",
]
