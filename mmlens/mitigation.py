"""Mitigation of hallucination: attention paid to the picture, and what methods are worth side by side."""

from mmlens.interventions.attention_boost import BoostAttention
from mmlens.interventions.sink_redistribution import RedistributeSinks

__all__ = ["BoostAttention", "RedistributeSinks"]
