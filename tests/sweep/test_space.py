"""Parameters in W&B's notation: what each distribution draws, and what is refused."""

import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest

from offline_rl.errors import SweepError
from offline_rl.sweep.space import Choice, read_parameters

UNIT = np.linspace(0, 1, 2001)[:-1] + 0.00025


def parameter(entry, grid=False):
    constants, searched = read_parameters({"x": entry}, "grid" if grid else "random")
    return searched["x"] if searched else Choice([constants["x"]], [1.0])


def drawn(entry):
    found = parameter(entry)
    return [found.at(number) for number in UNIT]


def test_two_whole_numbers_make_whole_numbers_both_ends_included():
    values = drawn({"min": 2, "max": 5})
    assert all(isinstance(value, int) for value in values)
    assert Counter(values) == {2: 500, 3: 500, 4: 500, 5: 500}


def test_other_ends_make_a_uniform_number():
    values = drawn({"min": 2, "max": 5.0})
    assert np.mean(values) == pytest.approx(3.5)
    assert min(values) >= 2
    assert max(values) <= 5


@pytest.mark.parametrize(
    ("distribution", "ends", "low", "high"),
    [
        ("log_uniform", (-2, 3), math.exp(-2), math.exp(3)),
        ("inv_log_uniform", (-2, 3), math.exp(-3), math.exp(2)),
        ("log_uniform_values", (1e-4, 1e-1), 1e-4, 1e-1),
        ("inv_log_uniform_values", (1e-4, 1e-1), 1e-4, 1e-1),
    ],
)
def test_the_logarithm_is_uniform_between_the_ends(distribution, ends, low, high):
    values = drawn({"distribution": distribution, "min": ends[0], "max": ends[1]})
    logs = np.log(values)
    assert logs.min() == pytest.approx(math.log(low), abs=0.01)
    assert logs.max() == pytest.approx(math.log(high), abs=0.01)
    assert np.allclose(np.sort(logs), np.linspace(logs.min(), logs.max(), len(logs)))
    assert min(values) >= low * (1 - 1e-12)
    assert max(values) <= high * (1 + 1e-12)


def test_normal_numbers_have_their_mean_and_deviation():
    values = drawn({"distribution": "normal", "mu": 3, "sigma": 2})
    assert np.mean(values) == pytest.approx(3, abs=1e-6)
    assert np.std(values) == pytest.approx(2, rel=0.01)
    logs = np.log(drawn({"distribution": "log_normal", "mu": -1, "sigma": 0.5}))
    assert np.mean(logs) == pytest.approx(-1, abs=1e-6)
    assert np.quantile(logs, 0.9) == pytest.approx(NormalDist(-1, 0.5).inv_cdf(0.9), abs=0.01)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1}, {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}),
        ({"distribution": "q_uniform", "min": 32, "max": 64, "q": 16}, {32, 48, 64}),
        ({"distribution": "q_log_uniform_values", "min": 8, "max": 32, "q": 8}, {8, 16, 24, 32}),
        ({"distribution": "q_log_uniform", "min": 0, "max": math.log(3), "q": 1}, {1, 2, 3}),
        ({"distribution": "q_normal", "mu": 0, "sigma": 0.3, "q": 1}, {-1, 0, 1}),
    ],
)
def test_rounded_distributions_draw_multiples_of_q(entry, expected):
    values = drawn(entry)
    assert set(values) == expected
    assert all(isinstance(value, type(entry["q"])) for value in values)


def test_values_are_drawn_as_often_as_their_probabilities_say():
    assert Counter(drawn({"values": ["a", "b"], "probabilities": [0.25, 0.75]})) == {"a": 500, "b": 1500}
    assert Counter(drawn({"values": [1, 1.0]})) == {1: 2000}  # equal to Python, but both are kept
    assert parameter({"values": [1, 1.0]}).values == [1, 1.0]


def test_a_group_is_a_heading():
    entries = {
        "alpha": {"value": 2.5},
        "critic": {"parameters": {"discount": {"values": [0.9, 0.99]}, "net": {"parameters": {"tau": {"value": 0.1}}}}},
    }
    constants, searched = read_parameters(entries, "random")
    assert constants == {"alpha": 2.5, "tau": 0.1}
    assert list(searched) == ["discount"]
    entries["discount"] = {"value": 0.9}
    with pytest.raises(SweepError, match=r"parameters\.discount: there is another parameter of this name"):
        read_parameters(entries, "random")


def test_a_grid_counts_whole_numbers_and_multiples():
    assert parameter({"min": 1, "max": 3}, grid=True).values == [1, 2, 3]
    steps = {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}
    assert parameter(steps, grid=True).values == [0.1, 0.2, 0.3]
    with pytest.raises(SweepError, match="a grid needs values that can be counted"):
        parameter({"min": 0.0, "max": 1.0}, grid=True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"distribution": "beta", "a": 1, "b": 2}, "parameters.x: 'a' is not supported"),
        ({"distribution": "beta"}, "distribution 'beta' is not supported; supported are constant, "),
        ({"distribution": "log_uniform_value", "min": 1, "max": 2}, "did you mean log_uniform_values?"),
        ({"vlues": [1]}, "'vlues' is not supported; did you mean values?"),
        ({"values": ["1e-3", 2]}, "parameters.x.values: YAML reads 1e-3 as text; write 1.0e-3"),
        ({"value": "3e5"}, "YAML reads 3e5 as text; write 3.0e+5"),
        ({"min": "1e-3", "max": 1}, "parameters.x.min: YAML reads 1e-3 as text; write 1.0e-3"),
        ({"min": "low", "max": 1}, "parameters.x.min is 'low'; it must be a finite number"),
        ({"min": 0, "max": math.inf}, "parameters.x.max is inf; it must be a finite number"),
        ({"min": 1, "max": 1}, "max must be above min"),
        ({"min": 1}, "give value, values, or min and max"),
        ({"values": []}, "it must be a list of at least one value"),
        ({"values": [0.1, 0.1]}, "parameters.x.values holds 0.1 twice; remove one"),
        ({"values": [1, 2], "probabilities": [1]}, "must be a list of 2 numbers, one for each value"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "must not be negative, and sum to 1"),
        ({"values": [1, 2], "min": 0}, "min has no meaning for distribution categorical; remove it"),
        ({"distribution": "uniform", "min": 0, "max": 1, "q": 1}, "q has no meaning for distribution uniform"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "needs numbers above 0"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, "parameters.x.min is 0.5; it must be a whole number"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "parameters.x.q is 0; it must be above 0"),
        ({"distribution": "normal", "sigma": 0}, "parameters.x.sigma is 0; it must be above 0"),
        ({"distribution": "uniform", "max": 1}, "distribution uniform needs min and max; min is missing"),
        ([1, 2], "parameters.x is [1, 2]; it must hold 'name: value' lines"),
    ],
)
def test_what_is_wrong_is_said_by_name(entry, message):
    with pytest.raises(SweepError) as raised:
        parameter(entry)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
