"""Federated transfer learning as a classifier and a regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from fedtl.estimators._privacy import told_labels
from fedtl.estimators._transfer_base import FederatedTransfer
from fedtl.privacy.noise import true_probabilities


class FederatedTransferClassifier(ClassifierMixin, FederatedTransfer):
    """Classifier that parties with different columns train together.

    The first party is the active one: it has the labels. It fits its own model (the anchor);
    the others add what the evidence of held-out rows says they add. Rows may be known to any
    subset of parties, when training and when predicting.

    Parameters
    ----------
    parties : list of (str, Encoder, columns), dict of str to columns, or None, default=None
        Which columns of X belong to whom, in the grammar of
        :class:`~sklearn.compose.ColumnTransformer`. None is one party with all columns; columns
        of no party are left out.
    solver : {"auto", "moments", "latent", "liu"}, default="auto"
        "moments" exchanges sums of products once and solves in closed form; "latent" trains
        networks together, mini-batch by mini-batch; "auto" does both, has every party fit trees
        of its own as well, and averages all of them by held-out error. "liu" is the method of
        the paper below, for comparison, from the active party to one other: it serves rows that
        the other party alone knows, protected as "moments" is.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process. With a
        :class:`~fedtl.federation.Federation`, X holds the active party's columns only, and
        rows are matched by their ids.
    key : str, default="index"
        Where the rows' ids are, with remote parties: in the index of a pandas frame, or in the
        column of this name, which then belongs to no party.
    privacy : {"auto", "none", "paillier", "sharing"}, Paillier or SecretSharing, default="auto"
        How what crosses between parties is protected: by packed Paillier encryption, or by secret
        shares with a dealer; ``solver="latent"`` then trains a layer on each other party's own
        features. New rows are scored under the same protection, which takes some milliseconds a
        row under encryption, and the dealer under shares. See :mod:`fedtl.privacy`.
        :class:`~fedtl.privacy.DifferentialPrivacy` adds noise to the sums of ``"moments"``, or to
        the latents of ``"latent"``, which are then told once, and four of them at most. "auto" is
        none where all parties are simulated in this process, and encryption where they are remote.
        Under protection ``solver="auto"`` is ``"moments"``.
        Where it matters, leave `random_state` None: folds follow the labels, and who guesses it
        learns labels from them.
    n_components : int, default=16
        Width of the shared latent space.
    max_iter : int, default=200
        Steps of the latent solver.
    local_updates : int, default=1
        Steps that every party takes on one exchange of the latent solver. More of them send
        fewer messages, on staler gradients; `max_iter` is rounded down to a multiple.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch; "auto" is 256, or 512 from 2,000 labelled rows on.
    lr : float, default=0.003
        Highest learning rate of the latent solver.
    n_folds : int, default=5
        Number of folds of the held-out evidence, and of networks.
    unlabeled : object, default=None
        The value of `y` that marks an unlabelled row, as -1. None: every row is labelled.
    warm_start : bool, default=False
        Whether a further fit keeps encodings and trains on the networks (``solver="latent"``).
    random_state : int, RandomState or None, default=None
        Seed of folds, networks and mini-batches. Secrets never come from it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes.
    report_ : FederationReport
        What the federation gained and what crossed the border.
    ledger_ : Ledger
        Messages and bytes since the fit began, predictions included.
    history_ : list of float
        Loss of each exchange of the latent solver.
    n_iter_ : int
        Steps of the latent solver.
    n_parties_ : int
        Number of parties.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferRegressor : The same for real targets.
    FederatedProjector : The latent space without labels.

    Notes
    -----
    Rows that only the active party knows are served by its anchor, unchanged. Transfer in
    vertical federations goes back to Y. Liu, Y. Kang, C. Xing, T. Chen, Q. Yang, "A secure
    federated transfer learning framework", IEEE Intelligent Systems, 2020. ``solver="liu"``
    minimises that paper's loss over the other party's encoder, the top layer of which is linear;
    `n_components` is the number of latents at most; few shared rows allow fewer, so that sums
    over them do not give them away, and below 8 labelled ones for two classes, or
    ``2 * (n_classes + 3)`` for more, it is refused.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_digits_halves
    >>> digits = load_digits_halves()
    >>> clf = FederatedTransferClassifier(digits.parties, solver="moments", random_state=0)
    >>> scores = cross_val_score(clf, digits.data, digits.target, cv=3)
    >>> bool(scores.mean() > 0.9)
    True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Predict classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows,)
            Classes.
        """
        check_is_fitted(self)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), dtype float64
            Probabilities, in the order of `classes_`.
        """
        scores = self._scores(X)
        if self._task() == "binary":
            scores = np.hstack([1.0 - scores, scores])
        if getattr(self.privacy, "unit", None) == "label":
            return true_probabilities(scores, self.privacy.epsilon)
        return scores

    def _task(self) -> str:
        return "binary" if len(self.classes_) == 2 else "multiclass"

    def _learn_target(
        self, y: np.ndarray, labeled: np.ndarray, weight: np.ndarray, classes: Any
    ) -> np.ndarray:
        known = y[labeled]
        if known.dtype == object:
            # Without its markers a mixed column may be one of numbers.
            known = np.asarray(known.tolist()) if len(set(map(type, known))) == 1 else known
        self._check_present(known)
        check_classification_targets(known)
        found = np.unique(known)
        if classes is not None:
            extra = np.setdiff1d(found, classes)
            if len(extra):
                raise ValueError(f"y has the classes {extra}, which were not announced in classes")
            found = np.unique(classes)
        if len(found) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes among the labelled rows, got 1 "
                f"class: {found}"
            )
        self.classes_ = found
        index = np.searchsorted(found, known)
        index = told_labels(self.privacy, index, len(found), self.federation)
        target = np.zeros((len(y), 1 if len(found) == 2 else len(found)))
        if len(found) == 2:
            target[labeled, 0] = index
        else:
            target[np.flatnonzero(labeled), index] = 1.0
        return target


class FederatedTransferRegressor(RegressorMixin, FederatedTransfer):
    """Regressor that parties with different columns train together.

    Parameters
    ----------
    parties : list of (str, Encoder, columns), dict of str to columns, or None, default=None
        Which columns of X belong to whom, in the grammar of
        :class:`~sklearn.compose.ColumnTransformer`. None is one party with all columns; columns
        of no party are left out.
    solver : {"auto", "moments", "latent"}, default="auto"
        "moments" exchanges sums of products once and solves in closed form; "latent" trains
        networks together, mini-batch by mini-batch; "auto" does both, has every party fit trees
        of its own as well, and averages all of them by held-out error.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process. With a
        :class:`~fedtl.federation.Federation`, X holds the active party's columns only, and
        rows are matched by their ids.
    key : str, default="index"
        Where the rows' ids are, with remote parties: in the index of a pandas frame, or in the
        column of this name, which then belongs to no party.
    privacy : {"auto", "none", "paillier", "sharing"}, Paillier or SecretSharing, default="auto"
        How what crosses between parties is protected: by packed Paillier encryption, or by secret
        shares with a dealer; ``solver="latent"`` then trains a layer on each other party's own
        features. New rows are scored under the same protection, which takes some milliseconds a
        row under encryption, and the dealer under shares. See :mod:`fedtl.privacy`.
        :class:`~fedtl.privacy.DifferentialPrivacy` adds noise to the sums of ``"moments"``, or to
        the latents of ``"latent"``, which are then told once, and four of them at most. "auto" is
        none where all parties are simulated in this process, and encryption where they are remote.
        Under protection ``solver="auto"`` is ``"moments"``.
        Where it matters, leave `random_state` None: folds follow the labels, and who guesses it
        learns labels from them.
    n_components : int, default=16
        Width of the shared latent space.
    max_iter : int, default=200
        Steps of the latent solver.
    local_updates : int, default=1
        Steps that every party takes on one exchange of the latent solver. More of them send
        fewer messages, on staler gradients; `max_iter` is rounded down to a multiple.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch; "auto" is 256, or 512 from 2,000 labelled rows on.
    lr : float, default=0.003
        Highest learning rate of the latent solver.
    n_folds : int, default=5
        Number of folds of the held-out evidence, and of networks.
    unlabeled : object, default=None
        The value of `y` that marks an unlabelled row, as NaN. None: every row is labelled.
    warm_start : bool, default=False
        Whether a further fit keeps encodings and trains on the networks (``solver="latent"``).
    random_state : int, RandomState or None, default=None
        Seed of folds, networks and mini-batches. Secrets never come from it.

    Attributes
    ----------
    report_ : FederationReport
        What the federation gained and what crossed the border.
    ledger_ : Ledger
        Messages and bytes since the fit began, predictions included.
    history_ : list of float
        Loss of each exchange of the latent solver.
    n_iter_ : int
        Steps of the latent solver.
    n_parties_ : int
        Number of parties.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferClassifier : The same for classes; the parameters are explained there.

    Examples
    --------
    >>> from fedtl import FederatedTransferRegressor
    >>> from fedtl.datasets import load_diabetes_parties
    >>> diabetes = load_diabetes_parties()
    >>> reg = FederatedTransferRegressor(diabetes.parties, solver="moments", random_state=0)
    >>> bool(reg.fit(diabetes.data, diabetes.target).score(diabetes.data, diabetes.target) > 0.4)
    True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Predict targets.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows,), dtype float64
            Targets.
        """
        scores = self._scores(X)
        return np.asarray(scores[:, 0] * self.target_scale_ + self.target_mean_)

    def _task(self) -> str:
        return "regression"

    def _learn_target(
        self, y: np.ndarray, labeled: np.ndarray, weight: np.ndarray, classes: Any
    ) -> np.ndarray:
        if getattr(self.privacy, "unit", None) == "label":
            raise ValueError("unit='label' is randomised response, which takes classes")
        if self.solver == "liu":
            raise ValueError(
                "solver='liu' transfers classes; for real targets use 'auto', 'moments' or 'latent'"
            )
        self._check_present(y[labeled])
        values = np.zeros(len(y))
        values[labeled] = np.asarray(y[labeled], dtype=np.float64)
        if not (self.warm_start and hasattr(self, "target_mean_")):
            own, w = values[labeled], weight[labeled]
            self.target_mean_ = float(np.average(own, weights=w))
            spread = float(np.sqrt(np.average((own - self.target_mean_) ** 2, weights=w)))
            self.target_scale_ = spread if spread > 0 else 1.0
        target = (values - self.target_mean_) / self.target_scale_
        return np.asarray(np.where(labeled, target, 0.0)[:, None])
