"""What a tuner does once it is fitted: it serves rows as the estimator that it trained would."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, check_array, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from fedtl.estimators._parties import as_table
from fedtl.estimators._rowwise import RowwiseEstimator
from fedtl.learning.local import kind_of
from fedtl.solvers.tuning import TunedModel

_CLASSIFYING = (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss, torch.nn.MultiMarginLoss)


def _has(method: str) -> Any:
    def check(tuner: TunedEstimator) -> bool:
        if isinstance(tuner.estimator, torch.nn.Module):
            return method != "transform" and bool(tuner._classifies())
        if method == "transform":
            return kind_of(tuner.estimator) == "skorch" and hasattr(tuner.estimator, method)
        if method == "predict_proba" and not is_classifier(tuner.estimator):
            return False  # skorch's regressors have one too
        return hasattr(tuner.estimator, method)

    return check


class TunedEstimator(RowwiseEstimator):
    """The part of :class:`FederatedFineTuner` that serves rows."""

    estimator: Any
    criterion: Any
    classes_: np.ndarray
    model_: TunedModel

    def predict(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Predict classes or numbers.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, ...)
            The predictions.
        """
        found = self._apply("predict", X, sample_party)
        return self.classes_[found] if self._classifies() else found

    @available_if(_has("predict_proba"))
    def predict_proba(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Predict probabilities of classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
            Probabilities in the order of ``classes_``.
        """
        return self._apply("predict_proba", X, sample_party)

    @available_if(_has("decision_function"))
    def decision_function(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Return the scores of classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
            Scores.
        """
        return self._apply("decision_function", X, sample_party)

    @available_if(_has("transform"))
    def transform(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Transform rows, where the skorch net has a ``transform`` of its own.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows, ...)
            What the net's own method returns.
        """
        return self._apply("transform", X, sample_party)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, or for regression the coefficient of determination.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        y : array-like of shape (n_rows,) or (n_rows, ...)
            True targets.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.

        Returns
        -------
        float
            The score.
        """
        metric = accuracy_score if self._classifies() else r2_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.estimator is None:
            return tags
        if not isinstance(self.estimator, torch.nn.Module):
            wrapped = get_tags(self.estimator)
            tags.estimator_type = wrapped.estimator_type
            tags.classifier_tags = wrapped.classifier_tags
            tags.regressor_tags = wrapped.regressor_tags
            if tags.classifier_tags is not None:
                tags.classifier_tags.multi_label = False
            return tags
        if self._classifies():
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def _classifies(self) -> bool:
        if isinstance(self.estimator, torch.nn.Module):
            return self.criterion is None or isinstance(self.criterion, _CLASSIFYING)
        return bool(is_classifier(self.estimator))

    def _read(self, X: Any, sample_party: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the party of each row, and the rows without it as an array."""
        _check_feature_names(self, X, reset=reset)
        X = as_table(X) if getattr(X, "ndim", 2) < 3 else np.asarray(X)
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        owners = self._owners(X, sample_party)
        X = check_array(self._without_party(X), allow_nd=True, estimator=self, input_name="X")
        return owners, X

    def _apply(self, method: str, X: Any, sample_party: Any) -> np.ndarray:
        check_is_fitted(self)
        owners, X = self._read(X, sample_party, reset=False)
        return self.model_.apply(method, owners, X)
