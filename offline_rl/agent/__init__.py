"""What an algorithm is, and what becomes of it: its files, its exports, the Hugging Face Hub.

An algorithm needs no other import than from this package, networks and data.
"""

from offline_rl.agent.base import LARGEST_WEIGHT, Agent, Loss, Phase
from offline_rl.agent.batch import Batch, Draw, Length, Metrics, Normal, Uniform, WindowBatch
from offline_rl.agent.config import AgentConfig, decimals
from offline_rl.agent.folder import describe
from offline_rl.agent.optimizer import ParameterGroup, Target, adam
from offline_rl.agent.registry import (
    agent_from_description,
    algorithms,
    find_algorithm,
    load_agent,
    merged,
    new_agent,
    presets,
)

__all__ = [
    "LARGEST_WEIGHT",
    "Agent",
    "AgentConfig",
    "Batch",
    "Draw",
    "Length",
    "Loss",
    "Metrics",
    "Normal",
    "ParameterGroup",
    "Phase",
    "Target",
    "Uniform",
    "WindowBatch",
    "adam",
    "agent_from_description",
    "algorithms",
    "decimals",
    "describe",
    "find_algorithm",
    "load_agent",
    "merged",
    "new_agent",
    "presets",
]
