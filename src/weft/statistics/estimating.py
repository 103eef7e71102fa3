"""What is estimated from data, each as sums that can be saved, restored and added."""

from weft.statistics.diagonal import FisherEstimator
from weft.statistics.factors import GramEstimator
from weft.statistics.interventions import Graft, InterventionEstimator
from weft.statistics.slopes import GradientEstimator
from weft.statistics.sums import Estimator, fed

__all__ = [
    "Estimator",
    "FisherEstimator",
    "GradientEstimator",
    "Graft",
    "GramEstimator",
    "InterventionEstimator",
    "fed",
]
