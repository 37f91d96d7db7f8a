"""Videos of episodes: stores where the robot was at each step, draws it, and writes an MP4 or a GIF.

No extra episode is played: steps are recorded while episodes are scored, so a video shows those and no others.
"""

import importlib
import importlib.util
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from ctypes.util import find_library
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.errors import VideoError
from offline_rl.files import replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from offline_rl.envs.vector import StepCallback

SIZE = 480
"""Width and height of the picture, in pixels."""
FASTEST = 30
"""Most pictures a second; a robot whose steps are shorter is shown every few steps, in real time all the same."""


class VideoRecorder:
    """Records the first episodes of a rollout.

    Args:
        path: Where it goes; ends in ``.mp4`` or ``.gif``.
        episodes: How many to keep, the first ones.
        about: What else the file's comment says beside ``returns``, for instance the task.

    Raises:
        VideoError: The name has another ending, the folder is not there, or something is not installed.
    """

    def __init__(self, path: str | Path, episodes: int = 1, about: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self._write = _writer_for(self.path)
        if episodes < 1:
            raise VideoError(f"video_episodes is {episodes}; it must be at least 1")
        self._gl = _offscreen()
        self._episodes = episodes
        self._about = dict(about or {})
        self._positions: list[list[NDArray[np.float64]]] = [[] for _ in range(episodes)]
        self._earned: list[list[float]] = [[] for _ in range(episodes)]
        self._model: Any = None
        self._step_seconds = 0.0

    @property
    def returns(self) -> list[float]:
        """What each recorded episode has earned so far."""
        return [sums[-1] for sums in self._earned if sums]

    def on_step(self, episodes: range) -> "StepCallback":
        """Return the callback for a rollout whose first rows are these episodes; other rows are ignored."""

        def record(row: int, environment: Any, reward: float) -> None:
            if row < len(episodes) and (episode := episodes[row]) < self._episodes:
                if not (hasattr(environment, "model") and hasattr(environment, "dt")):
                    raise VideoError(
                        f"{environment.spec.id} is no MuJoCo environment of Gymnasium's own form, which a video needs;"
                        " leave out --video"
                    )
                self._model, self._step_seconds = environment.model, float(environment.dt)
                self._positions[episode].append(environment.data.qpos.copy())
                sums = self._earned[episode]
                sums.append(sums[-1] + reward if sums else 0.0)

        return record

    def write(self) -> None:
        """Draw what was seen and write the file, whole or not at all.

        Raises:
            VideoError: The file cannot be written.
        """
        every = max(1, math.ceil(1 / FASTEST / self._step_seconds))
        comment = json.dumps(self._about | {"returns": self.returns})
        try:
            with replace_file(self.path) as temporary:
                self._write(temporary, self._pictures(every), every * self._step_seconds, comment)
        except OSError as error:
            raise VideoError(f"{self.path} cannot be written ({error}); choose another --video") from None

    def _pictures(self, every: int) -> "Iterator[Image]":
        """Yield the pictures of all episodes, of each the first state, every so many steps, and the last."""
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(size=18)
        camera = _Camera(self._model, self._gl)
        for episode, (positions, sums) in enumerate(zip(self._positions, self._earned, strict=True), start=1):
            last = len(positions) - 1
            for step in [*range(0, last, every), last]:
                picture = Image.fromarray(camera.picture(positions[step]))
                text = f"step {step}   return {sums[step]:.1f}"
                if self._episodes > 1:
                    text = f"episode {episode}   {text}"
                ImageDraw.Draw(picture).text((12, 10), text, fill="white", font=font)
                yield picture


class _Camera:
    """MuJoCo's renderer on a context that is chosen when it is needed; `mujoco.Renderer` fixes its at import."""

    def __init__(self, model: Any, gl: Any) -> None:
        import mujoco

        self._mujoco, self._model = mujoco, model
        self._data = mujoco.MjData(model)
        gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        # Without these two a picture takes a third of the time where a CPU draws it.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mujoco.MjvCamera()
        self._view.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if self._view.fixedcamid >= 0:
            self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        else:
            mujoco.mjv_defaultFreeCamera(model, self._view)

    def picture(self, positions: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return ``(SIZE, SIZE, 3)`` of the robot with these joint positions."""
        m = self._mujoco
        self._data.qpos[:] = positions
        m.mj_forward(self._model, self._data)
        m.mjv_updateScene(self._model, self._data, m.MjvOption(), None, self._view, m.mjtCatBit.mjCAT_ALL, self._scene)
        rectangle = m.MjrRect(0, 0, SIZE, SIZE)
        m.mjr_render(rectangle, self._scene, self._context)
        upside_down = np.empty((SIZE, SIZE, 3), np.uint8)
        m.mjr_readPixels(upside_down, None, rectangle, self._context)
        return upside_down[::-1]


def gif_of(model: Any, positions: NDArray[np.float64], seconds: float) -> bytes:
    """Return a GIF of a robot with these joint positions ``(N, Q)``, one picture each.

    Args:
        model: MuJoCo's.
        positions: Its ``qpos``.
        seconds: How long each picture is shown.

    Raises:
        VideoError: OpenGL does not work here.
    """
    from PIL import Image

    gl, content = _offscreen(), io.BytesIO()  # the camera sees nothing once its context is gone
    camera = _Camera(model, gl)
    pictures = (Image.fromarray(camera.picture(where)) for where in positions)
    _write_gif(content, pictures, seconds, "")
    return content.getvalue()


def _offscreen() -> Any:
    """Return an OpenGL context without a window: what MUJOCO_GL names if that needs none, else EGL's, else OSMesa's.

    Raises:
        VideoError: It does not work here.
    """
    name = os.environ.get("MUJOCO_GL", "").lower()
    if sys.platform == "darwin":
        name = "cgl"
    elif name not in ("egl", "osmesa"):
        name = "osmesa" if find_library("OSMesa") and not find_library("EGL") else "egl"
    try:
        return importlib.import_module(f"mujoco.{name}").GLContext(SIZE, SIZE)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        # One sentence: what the libraries say may end in a full stop.
        why = str(error).rstrip(".")
        raise VideoError(
            f"a video needs OpenGL without a screen, and {name} does not work here ({why}); on Debian or Ubuntu"
            " run: apt-get install libegl1 libgl1"
        ) from None


_Write = Callable[[Path, "Iterator[Image]", float, str], None]


def _writer_for(path: Path) -> _Write:
    kind = path.suffix.lower()
    if kind not in (".mp4", ".gif"):
        raise VideoError(f"{path} does not end in .mp4 or .gif; choose one of them")
    if path.is_dir() or not path.parent.is_dir():
        wrong = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise VideoError(f"{wrong}; choose another --video")
    if kind == ".gif":
        return _write_gif
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise VideoError("an MP4 needs imageio-ffmpeg: pip install 'offline-rl-suite[video]'; a GIF needs nothing")
    return _write_mp4


def _write_mp4(path: Path, pictures: "Iterator[Image]", seconds: float, comment: str) -> None:
    import imageio_ffmpeg

    options = ["-f", "mp4", "-movflags", "+faststart", "-metadata", f"comment={comment}"]
    sent = 0
    sink = imageio_ffmpeg.write_frames(str(path), (SIZE, SIZE), fps=1 / seconds, quality=7, output_params=options)
    sink.send(None)
    try:
        for picture in pictures:
            sink.send(picture.tobytes())
            sent += 1
    finally:
        sink.close()
    # How ffmpeg ended is not reported, and a full disk may be met after the last picture was sent.
    try:
        written = imageio_ffmpeg.count_frames_and_secs(str(path))[0]
    except RuntimeError:
        written = 0
    if written != sent:
        raise OSError(f"ffmpeg has written {written} of {sent} pictures")


def _write_gif(path: Path | io.BytesIO, pictures: "Iterator[Image]", seconds: float, comment: str) -> None:
    from PIL.Image import Dither

    first = next(pictures).quantize(256)

    def same_colours() -> "Iterator[Image]":
        for picture in pictures:
            yield picture.quantize(palette=first, dither=Dither.NONE)

    first.save(
        path,
        "GIF",
        save_all=True,
        append_images=same_colours(),
        duration=round(1000 * seconds),
        loop=0,
        comment=comment.encode(),
    )
