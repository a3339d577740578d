"""Federated transfer learning for scikit-learn and PyTorch pipelines."""

from pathlib import Path

if not Path(__file__).with_name("estimators").is_dir():  # a checkout without symlinks
    __path__.append(str(Path(__file__).parents[1]))

from fedtl.estimators import (
    Encoder,
    FederatedColumnTransformer,
    FederatedFineTuner,
    FederatedGaussianNB,
    FederatedLogisticRegression,
    FederatedPCA,
    FederatedProjector,
    FederatedRidge,
    FederatedSharedColumnsClassifier,
    FederatedSharedColumnsRegressor,
    FederatedSimpleImputer,
    FederatedStandardScaler,
    FederatedTransferClassifier,
    FederatedTransferRegressor,
)
from fedtl.model_selection import LabeledFold

__version__ = "0.1.0.dev0"

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
    "LabeledFold",
]
