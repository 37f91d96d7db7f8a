"""The command that makes the README's moving picture."""

import sys
from ctypes.util import find_library

import pytest
from PIL import Image

from benchmarks.picture import HEIGHT, picture


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "linux" and not find_library("EGL") and not find_library("OSMesa"),
    reason="needs EGL (Debian: libegl1, libgl1)",
)
def test_the_picture_moves_and_shows_film_and_curve_side_by_side(tmp_path):
    """Fails if the curve does not grow, or a run that is there is trained again."""
    options = {"run": tmp_path / "run", "steps": 40, "eval_every": 10}
    picture(tmp_path / "once.webp", **options)
    record = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    picture(tmp_path / "again.webp", **options)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == record
    with Image.open(tmp_path / "again.webp") as film:
        assert film.size == (HEIGHT + round(1.5 * HEIGHT), HEIGHT)
        halves = []
        for frame in (0, film.n_frames - 1):
            film.seek(frame)
            halves.append(
                [film.convert("RGB").crop(box).tobytes() for box in ((0, 0, HEIGHT, HEIGHT), (HEIGHT, 0, *film.size))]
            )
    assert all(first != last for first, last in zip(*halves, strict=True))
