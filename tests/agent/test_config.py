"""Settings inside settings, several classes behind one name, and records that older versions wrote."""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from helpers.agents import agent_of, as_format_1

from offline_rl.agent import (
    AgentConfig,
    NestedConfig,
    algorithms,
    decimals,
    find_algorithm,
    load_agent,
    setting_types,
    upgraded,
    variants,
)
from offline_rl.algos import iql, td3_bc
from offline_rl.algos.famo2o.agent import FAMO2O, OnCQL, OnIQL
from offline_rl.algos.parl import agent as parl
from offline_rl.algos.parl import lower
from offline_rl.errors import AgentError
from offline_rl.settings import AtLeast, AtMost

OLD = json.loads(Path(__file__).with_name("old_configs.json").read_text(encoding="utf-8"))
"""The ``config`` of ``config.json``: of runs whose settings all lay side by side, and of others before new settings."""
SMALL = {"hidden_dims": [8], "batch_size": 8}


@dataclass(frozen=True)
class Left(NestedConfig):
    kind: ClassVar[str] = "left"
    alpha: Annotated[float, AtLeast(0), AtMost(2)] = 1.0
    """How far to the left."""


@dataclass(frozen=True)
class Right(NestedConfig):
    kind: ClassVar[str] = "right"
    alpha: float = 5.0
    """How far to the right."""
    beta: int = 3
    """How often."""


@dataclass(frozen=True)
class Outer(AgentConfig):
    side: Left | Right = field(default_factory=Left)
    """Which side."""


def test_nested_settings_go_by_names_with_a_dot():
    config = Outer.of({"side": "right", "side.alpha": 2, "batch_size": 7})
    assert config == Outer(side=Right(alpha=2.0), batch_size=7)
    assert config.settings() == {
        "hidden_dims": [256, 256],
        "batch_size": 7,
        "normalize": True,
        "side": "right",
        "side.alpha": 2.0,
        "side.beta": 3,
    }
    assert Outer.of(config.settings()) == config
    assert config.replaced({"side.beta": 4}).side == Outer(batch_size=7, side=Right(alpha=2.0, beta=4)).side
    assert Outer.of({"side": Right(beta=9), "side.alpha": 0.5}).side.settings() == {"alpha": 0.5, "beta": 9}
    assert set(Outer.types()) == set(config.settings()) and set(Outer().settings()) < set(Outer.types())


def test_what_concerns_the_whole_agent_is_the_outer_ones():
    config = Outer(batch_size=3, hidden_dims=[4], normalize=False)
    assert (config.side.batch_size, config.side.hidden_dims, config.side.normalize) == (3, [4], False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side.beta": 1}, "side.beta has no meaning on left; leave it out, or choose --side right"),
        ({"side.gamma": 1}, "side.gamma has no meaning on left; correct its name"),
        ({"side.batch_size": 1}, "side.batch_size has no meaning on left"),
        ({"side": "up"}, "side is 'up'; it must be one of left, right"),
        ({"side.alpha": -1}, "side.alpha is -1.0; it must be at least 0"),
        ({"side.alpha": 2.5}, "side.alpha is 2.5; it must be at most 2"),
        ({"side.alpha": "x"}, "side.alpha is 'x'; it must be a finite number"),
        ({"alpha": 1}, "there is no setting 'alpha'"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"hidden_dims": [8, 0]}, r"hidden_dims is \[8, 0\]; it must be at least 1"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(AgentError, match=f"^{message}"):
        Outer.of(settings)


def test_the_table_tells_kind_default_limits_and_meaning_of_every_setting():
    table = Outer().table()
    assert set(table) == set(Outer.types())
    assert (table["side.alpha"].default, table["side.alpha"].range) == (1.0, "at least 0 and at most 2")
    assert (table["side.beta"].default, table["side.beta"].description) == (3, "On right: How often.")
    assert (table["side"].default, table["side"].description) == ("left", "Which side.")


@pytest.mark.parametrize("name", algorithms())
def test_every_setting_of_every_algorithm_is_described(name):
    for algorithm in variants(name).values():
        table = algorithm.config_class().table()
        assert not [setting for setting, known in table.items() if not known.description]
        assert set(table) == set(algorithm.config_class.types()) <= set(setting_types(name))


def test_a_setting_chooses_the_class_behind_a_name():
    assert find_algorithm("famo2o") is find_algorithm("famo2o", {"base": "iql"}) is OnIQL
    assert find_algorithm("famo2o", {"base": "cql", "num_actions": 2}) is OnCQL
    with pytest.raises(
        AgentError, match="num_actions has no meaning with base iql; leave it out, or choose --base cql"
    ):
        find_algorithm("famo2o", {"num_actions": 2})
    with pytest.raises(AgentError, match="base is 'dt'; it must be one of iql, cql"):
        find_algorithm("famo2o", {"base": "dt"})
    assert variants("iql") == {"": iql.IQL}


# Records of older versions.


def test_an_old_config_of_parl_has_its_lower_levels_settings_side_by_side():
    config = parl.Config.of(upgraded("parl", OLD["parl"]))
    assert isinstance(config.lower, lower.OnIQL)
    assert (config.lower.beta, config.lower.discount, config.lower.expectile) == (2.0, 0.95, 0.7)
    assert (config.rounds, config.scale_rewards, config.hidden_dims, config.lower.scale_rewards) == (
        3,
        True,
        [8],
        False,
    )
    assert config.replaced({"lower.beta": 3.0, "lower.discount": 0.99}).lower.settings() == lower.OnIQL().settings()


def test_an_old_config_of_parl_on_td3_bc_may_hold_settings_of_iql():
    config = parl.Config.of(upgraded("parl", OLD["parl td3_bc"]))
    assert isinstance(config.lower, lower.OnTD3BC)
    assert config.lower.alpha == 1.5 and config.lower.policy_delay == td3_bc.Config().policy_delay
    each = upgraded("parl", {"alpha": [1.0, 2.0], "discount": [0.9, 0.99]})
    assert each == {"lower.alpha": [1.0, 2.0], "lower.discount": [0.9, 0.99]}


@pytest.mark.parametrize(("name", "base"), [("famo2o", "iql"), ("famo2o cql", "cql")])
def test_an_old_config_of_famo2o_holds_the_settings_of_both_bases(name, base):
    settings = upgraded("famo2o", OLD[name])
    config = find_algorithm("famo2o", settings).config_class.of(settings)
    changed = {"hidden_dims": [8], "batch_size": 8} | ({"expectile": 0.8} if base == "iql" else {"num_actions": 2})
    assert config.settings() == {**FAMO2O.classes[base].config_class().settings(), **changed}


@pytest.mark.parametrize("name", ["td3_bc", "a2pr"])
def test_an_old_config_has_critics_as_they_were(name):
    """Broken by a default of the settings of critics that is not what there was before there were any."""
    config = find_algorithm(name).config_class.of(upgraded(name, OLD[name]))
    assert {key: value for key, value in config.settings().items() if key not in OLD[name]} == {
        "critic_hidden_dims": [],
        "critic_layer_norm": "none",
    }
    sizes = {tuple(layer.shape[1:]) for layer in agent_of(name, OLD[name], 3, 2).critic.mlp.parameters()}
    assert sizes == {(8, 5), (8,), (1, 8), (1,)}


@pytest.mark.parametrize("name", ["parl", "parl td3_bc", "famo2o", "famo2o cql", "td3_bc", "a2pr"])
def test_an_agent_with_an_old_config_is_loaded(name, tmp_path):
    algorithm = name.partition(" ")[0]
    agent = agent_of(algorithm, upgraded(algorithm, OLD[name]), 3, 2)
    agent.save(tmp_path / "agent")
    as_format_1(tmp_path / "agent", config=OLD[name])
    loaded = load_agent(tmp_path / "agent")
    assert loaded.config == agent.config
    assert (loaded.act([0.1, 0.2, 0.3]) == agent.act([0.1, 0.2, 0.3])).all()


def test_settings_of_today_stay_as_they_are():
    for name in algorithms():
        for algorithm in variants(name).values():
            settings = algorithm.config_class().settings()
            assert upgraded(name, settings) == settings
    assert upgraded("not installed", {"alpha": 1}) == {"alpha": 1}


# Names that go with the next release.


def test_the_old_ways_to_write_limits_and_stackable_settings_warn():
    @dataclass(frozen=True)
    class Config(AgentConfig):
        rate: float = 0.0

        def __post_init__(self):
            super().__post_init__()
            self.require("rate", above=0)

    with pytest.warns(DeprecationWarning, match="AtLeast"), pytest.raises(AgentError, match=r"rate is 0.0; .* above 0"):
        Config()
    with pytest.warns(DeprecationWarning, match="write the names"):
        assert decimals(td3_bc.Config, "alpha")[:2] == ("discount", "target_rate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        td3_bc.Config()
