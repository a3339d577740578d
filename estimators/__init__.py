"""Estimators: what users import."""

if __name__ != "fedtl.estimators":
    raise ImportError("The folder estimators is the package fedtl.estimators: import it as that.")

from fedtl.estimators._column_transformer import FederatedColumnTransformer
from fedtl.estimators._encoder import Encoder
from fedtl.estimators._fine_tuner import FederatedFineTuner
from fedtl.estimators._linear import FederatedLogisticRegression, FederatedRidge
from fedtl.estimators._naive_bayes import FederatedGaussianNB
from fedtl.estimators._pca import FederatedPCA
from fedtl.estimators._preprocessing import FederatedSimpleImputer, FederatedStandardScaler
from fedtl.estimators._projector import FederatedProjector
from fedtl.estimators._shared_columns import (
    FederatedSharedColumnsClassifier,
    FederatedSharedColumnsRegressor,
)
from fedtl.estimators._transfer import FederatedTransferClassifier, FederatedTransferRegressor

__all__ = [
    "Encoder",
    "FederatedColumnTransformer",
    "FederatedFineTuner",
    "FederatedGaussianNB",
    "FederatedLogisticRegression",
    "FederatedPCA",
    "FederatedProjector",
    "FederatedRidge",
    "FederatedSharedColumnsClassifier",
    "FederatedSharedColumnsRegressor",
    "FederatedSimpleImputer",
    "FederatedStandardScaler",
    "FederatedTransferClassifier",
    "FederatedTransferRegressor",
]
