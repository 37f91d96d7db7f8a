"""What an algorithm is, and what becomes of it: its files, its exports, the Hugging Face Hub.

An algorithm needs no other import than from this package, networks and data.
"""

from offline_rl.agent.about import About
from offline_rl.agent.base import LARGEST_WEIGHT, Agent, Loss, Phase
from offline_rl.agent.batch import Batch, Draw, Length, Metrics, NextActionBatch, Normal, Uniform, WindowBatch
from offline_rl.agent.config import AgentConfig, NestedConfig, decimals
from offline_rl.agent.folder import describe
from offline_rl.agent.optimizer import Adam, OptimizerGroup, ParameterGroup, Target, TargetNetwork, adam
from offline_rl.agent.registry import (
    Variants,
    agent_from_description,
    algorithms,
    find_algorithm,
    load_agent,
    merged,
    new_agent,
    presets,
    setting_types,
    upgraded,
    variants,
)
from offline_rl.agent.sequence import SequenceAgent, SequenceConfig, target_labels

__all__ = [
    "LARGEST_WEIGHT",
    "About",
    "Adam",
    "Agent",
    "AgentConfig",
    "Batch",
    "Draw",
    "Length",
    "Loss",
    "Metrics",
    "NestedConfig",
    "NextActionBatch",
    "Normal",
    "OptimizerGroup",
    "ParameterGroup",
    "Phase",
    "SequenceAgent",
    "SequenceConfig",
    "Target",
    "TargetNetwork",
    "Uniform",
    "Variants",
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
    "setting_types",
    "target_labels",
    "upgraded",
    "variants",
]
