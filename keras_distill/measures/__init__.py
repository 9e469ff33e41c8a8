"""What answers are worth beside labels, and how sure one can be of it."""

from keras_distill.measures.calibration import expected_calibration_error
from keras_distill.measures.classes import (
    accuracy,
    brier,
    f1,
    mean_iou,
    nll,
    perplexity,
    roc_auc,
    top_k,
)
from keras_distill.measures.detection import mean_average_precision
from keras_distill.measures.metric import Answered, Metric
from keras_distill.measures.numbers import mae, quantile_loss, r2, rmse
from keras_distill.measures.paired import Interval, mcnemar
from keras_distill.measures.ranking import ndcg, recall

__all__ = [
    "Answered",
    "Interval",
    "Metric",
    "accuracy",
    "brier",
    "expected_calibration_error",
    "f1",
    "mae",
    "mcnemar",
    "mean_average_precision",
    "mean_iou",
    "ndcg",
    "nll",
    "perplexity",
    "quantile_loss",
    "r2",
    "recall",
    "rmse",
    "roc_auc",
    "top_k",
]
