"""Cross-validation where only some rows are labelled."""

from fedtl.model_selection._labeled_fold import LabeledFold

__all__ = ["LabeledFold"]
