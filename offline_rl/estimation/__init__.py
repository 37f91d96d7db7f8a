"""What an agent is worth by recorded episodes alone, without a simulator."""

from offline_rl.estimation.estimate import estimate
from offline_rl.estimation.options import EstimateOptions
from offline_rl.estimation.result import Comparison, Importance, Interval, Support, ValueEstimate

__all__ = ["Comparison", "EstimateOptions", "Importance", "Interval", "Support", "ValueEstimate", "estimate"]
