"""Films: decoded again, and compared with the scores of the same episodes."""

import io
import json
import resource
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import offline_rl as orl
from offline_rl.algos.bc import BC, Config
from offline_rl.cli.main import main
from offline_rl.envs.dynamics import make_env
from offline_rl.envs.video import gif_of
from offline_rl.errors import VideoError

pytestmark = pytest.mark.skipif(
    sys.platform == "linux" and not find_library("EGL") and not find_library("OSMesa"),
    reason="needs EGL (Debian: libegl1, libgl1)",
)
STEPS_A_PICTURE = 5
"""Of the hopper: 125 steps a second, 25 pictures."""


@pytest.fixture(scope="module")
def agent():
    return BC(Config(hidden_dims=[16, 16]), 11, 3)


def test_a_film_of_postures_shows_the_robot_as_it_stood():
    """Broken by a context that is gone before the first picture: then it shows what the memory held."""
    environment = make_env("hopper").unwrapped
    environment.reset(seed=0)
    upright = environment.data.qpos.copy()
    fallen = upright + np.array([0.0, -0.9, 1.2, 0.0, 0.0, 0.0])
    film = Image.open(io.BytesIO(gif_of(environment.model, np.stack([upright, fallen]), 0.1)))
    assert film.n_frames == 2
    heights = []
    for number in range(2):
        film.seek(number)
        picture = np.asarray(film.convert("RGB")).astype(int)
        assert picture[0].std(0).max() < 5  # the sky is of one colour along a row
        brown = picture[..., 0] > picture[..., 2] + 40  # nothing but the robot is
        assert 500 < brown.sum() < 20_000
        heights.append(int(np.flatnonzero(brown.any(1))[0]))
    assert heights[1] > heights[0] + 50  # rows are counted from above


def decoded_mp4(path: Path):
    frames = imageio_ffmpeg.read_frames(str(path))
    told = next(frames)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "ffmetadata", "-"]
    metadata = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    comment = next(line for line in metadata.splitlines() if line.startswith("comment=")).removeprefix("comment=")
    pictures = [np.frombuffer(frame, np.uint8).reshape(480, 480, 3) for frame in frames]
    return pictures, 1 / told["fps"], json.loads(comment)


def decoded_gif(path: Path):
    with Image.open(path) as film:
        comment, seconds, pictures = json.loads(film.info["comment"]), film.info["duration"] / 1000, []
        for number in range(film.n_frames):
            film.seek(number)
            pictures.append(np.asarray(film.convert("RGB")))
    return pictures, seconds, comment


@pytest.mark.parametrize(("kind", "decoded", "count"), [("mp4", decoded_mp4, 2), ("gif", decoded_gif, 11)])
def test_a_film_shows_the_scored_episodes_in_real_time(agent, tmp_path, kind, decoded, count):
    path = tmp_path / f"film.{kind}"
    filmed = orl.evaluate(agent, "hopper", episodes=12, seed=3, video=path, video_episodes=count)
    scored = orl.evaluate(agent, "hopper", episodes=12, seed=3)
    np.testing.assert_array_equal(filmed.returns, scored.returns)
    pictures, seconds, comment = decoded(path)
    assert comment == {"task": "hopper", "dynamics": "d4rl", "seed": 3, "returns": scored.returns[:count].tolist()}
    assert len(set(comment["returns"])) == count
    assert seconds == pytest.approx(0.04)
    assert len(pictures) == sum(-(-length // STEPS_A_PICTURE) + 1 for length in scored.lengths[:count])
    # Below the text, each picture differs from the one before by more than compression does.
    scenes = np.stack(pictures)[:, 60::3, ::3].astype(np.int16)
    moved = np.abs(np.diff(scenes, axis=0)).max(axis=3) > 60
    assert (moved.mean(axis=(1, 2)) > 0.0003).all()
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_film_that_cannot_be_written_leaves_the_old_one_and_no_rest(agent, tmp_path, kind):
    path = tmp_path / f"film.{kind}"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(VideoError, match="cannot be written"):
            orl.evaluate(agent, "hopper", episodes=1, video=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("film.avi", {}, "does not end in .mp4 or .gif"),
        ("film", {}, "does not end in .mp4 or .gif"),
        ("nowhere/film.gif", {}, "nowhere is no folder"),
        ("film.gif", {"video_episodes": 0}, "video_episodes is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_filmed_is_said_before_anything_is_played(agent, tmp_path, name, settings, sentence):
    with pytest.raises(VideoError, match=sentence):
        orl.evaluate(agent, "hopper", video=tmp_path / name, **settings)
    assert not list(tmp_path.iterdir())


def test_what_is_not_installed_is_named_with_its_command(agent, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(VideoError, match=r"pip install 'offline-rl-suite\[video\]'"):
        orl.evaluate(agent, "hopper", video=tmp_path / "film.mp4")


@pytest.mark.skipif(find_library("OSMesa") is not None, reason="OSMesa is here")
def test_a_missing_opengl_is_a_sentence(agent, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    with pytest.raises(VideoError, match=r"osmesa does not work here \(.*\); on Debian or Ubuntu run: apt-get install"):
        orl.evaluate(agent, "hopper", video=tmp_path / "film.gif")


def test_the_command_films_the_first_agent(agent, tmp_path, capsys):
    for seed in (0, 1):
        BC(Config(hidden_dims=[16, 16]), 11, 3, seed=seed).save(tmp_path / "run" / "agents" / f"seed-{seed}")
    film = tmp_path / "film.gif"
    arguments = [str(tmp_path / "run"), "--task", "hopper", "--episodes", "2", "--video", str(film), "--json"]
    assert main(["evaluate", *arguments]) == 0
    told = capsys.readouterr()
    assert told.err == f"video written to {film}\n"
    _, _, comment = decoded_gif(film)
    assert comment["returns"] == orl.evaluate(agent, "hopper", episodes=2).returns[:1].tolist()
    assert len(json.loads(told.out)) == 2
