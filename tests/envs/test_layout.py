"""Nested observations as vectors: the order, the names, and the way back."""

import numpy as np
import pytest
from gymnasium import spaces

from offline_rl.envs.layout import Layout, Part, goal_distance


def box(size):
    return spaces.Box(-np.inf, np.inf, (size,))


MAZE = spaces.Dict({"observation": box(3), "desired_goal": box(2), "achieved_goal": box(2)})
KITCHEN = spaces.Dict(
    {
        "desired_goal": spaces.Dict({"kettle": box(2), "bottom burner": box(1)}),
        "achieved_goal": spaces.Dict({"kettle": box(2), "bottom burner": box(1)}),
        "observation": box(2),
    }
)
MIXED = spaces.Tuple((box(1), spaces.Dict({"b": box(1), "a": spaces.Tuple((box(2), box(1)))})))


def test_goals_stand_at_the_ends_and_other_keys_are_sorted():
    assert Layout.of_space(MAZE).names == (
        *("achieved_goal.0", "achieved_goal.1"),
        *("observation.0", "observation.1", "observation.2"),
        *("desired_goal.0", "desired_goal.1"),
    )
    assert [part.name for part in Layout.of_space(KITCHEN).parts] == [
        *("achieved_goal.bottom burner", "achieved_goal.kettle"),
        *("observation", "desired_goal.bottom burner", "desired_goal.kettle"),
    ]
    assert Layout.of_space(MIXED).names == ("0.0", "1.a.0.0", "1.a.0.1", "1.a.1.0", "1.b.0")


@pytest.mark.parametrize("space", [MAZE, KITCHEN, MIXED])
def test_a_vector_holds_each_number_under_its_name(space):
    """Each number is looked up by following its name, without the layout's code."""
    layout = Layout.of_space(space)
    space.seed(0)
    observation = space.sample()
    vector = layout.flat(observation)
    assert vector.shape == (layout.size,)
    for name, number in zip(layout.names, vector, strict=True):
        node = observation
        for key in name.split("."):
            node = node[key] if isinstance(node, dict) else node[int(key)]
        assert node == number


@pytest.mark.parametrize("space", [MAZE, KITCHEN, MIXED])
def test_the_names_are_all_that_is_stored(space):
    layout = Layout.of_space(space)
    assert Layout.of_names(layout.names) == layout
    batch = np.random.default_rng(0).normal(size=(4, layout.size))
    assert np.array_equal(layout.flat(layout.nested(batch)), batch)
    assert Layout.of_space(layout.space()) == layout if space is not MIXED else True


@pytest.mark.parametrize(
    "names",
    [
        None,
        (),
        ("observation_0",),
        ("a.0", "a.2"),
        ("a.1",),
        ("a.0", "b.0", "a.1"),
        ("a.0", "a.0"),
        ("a.00",),
        ("a.0", "b"),
    ],
)
def test_other_names_are_no_layout(names):
    assert Layout.of_names(names) is None


def test_a_vector_needs_no_layout():
    assert Layout.of_space(box(4)) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(4), r"the form Discrete\(4\)$"),
        (spaces.Dict({"n": spaces.Discrete(4)}), r"n of the form Discrete\(4\)$"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), "images are not supported"),
        (spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), "camera of .*images are not supported"),
        (spaces.Box(0, 1, ()), "one dimension is needed"),
        (spaces.Dict({"a.b": box(1)}), "keys must be texts without dots"),
        (spaces.Dict({}), "empty"),
    ],
)
def test_what_holds_something_else_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        Layout.of_space(space)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"desired_goal": None}, "no 'desired_goal'"),
        ({"observation": np.zeros(4)}, r"'observation' has shape \(4,\); the last number must be 3"),
        ({"colour": np.zeros(1)}, "has 'colour', which is not known"),
        ({"observation": np.zeros((2, 3))}, "different lengths"),
    ],
)
def test_a_part_that_does_not_fit_is_named(changes, message):
    given = {"observation": np.zeros(3), "achieved_goal": np.zeros(2), "desired_goal": np.zeros(2), **changes}
    with pytest.raises(ValueError, match=message):
        Layout.of_space(MAZE).flat({key: value for key, value in given.items() if value is not None})


def test_the_distance_of_goals_is_that_of_their_vectors():
    assert goal_distance({"achieved_goal": [1.0, 2.0], "desired_goal": [4.0, 6.0], "observation": [0.0]}) == 5
    nested = {"achieved_goal": {"a": [1.0], "b": [0.0]}, "desired_goal": {"a": [4.0], "b": [4.0]}}
    assert goal_distance(nested) == 5
    assert goal_distance({"observation": [0.0]}) is None
    assert goal_distance(np.zeros(3)) is None


def test_a_part_is_found_by_its_path():
    assert Part(("a", "1"), 2).of({"a": (0, [5, 6])}) == [5, 6]
