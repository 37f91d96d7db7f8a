"""A person compares segments: short films side by side on a local page, and the answers in a file to learn from.

The films show what an agent did online, out of the rows that its run has kept. Observations say how the robot stood but
not where, so the place is summed up from its speed. Labels are written in the layout of Inverse Preference Learning,
which ``labels`` of ``parl`` and ``parl_online`` reads.

The page is served to this machine alone, on 127.0.0.1. Its address holds a secret, without which nothing is shown and
no answer is taken: neither another page in the same browser nor another user's program knows it. The server sends what
it has made itself and never opens a path that somebody asks for; the page loads nothing from elsewhere.

Not verified: how well people answer what is shown; no study has been made.
"""

import hmac
import io
import json
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.agent import load_agent
from offline_rl.data.packed import PackedRows
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.envs.dynamics import dynamics_of, make_env
from offline_rl.envs.tasks import find_task
from offline_rl.envs.video import gif_of
from offline_rl.errors import RunError
from offline_rl.files import MAKE_ROOM, write_bytes, writing
from offline_rl.preferences.experience import Experience
from offline_rl.preferences.labels import read_contents
from offline_rl.preferences.segments import segment_rows
from offline_rl.training.run import Run

FloatArray = npt.NDArray[np.float32]
FILMED = "hopper", "walker2d", "halfcheetah"
"""Robots whose observations hold all joints but the first, which says how far they have come."""
PICTURES_PER_SECOND = 12
"""Of a film, one for each step: slower than life, for a hopper makes 125 steps a second."""
ANSWERS = {"first": 0.0, "second": 1.0, "equal": 0.5, "skip": None}
"""What a person may say; a pair that is skipped is not kept."""
LARGEST_REQUEST = 1000
"""Bytes of a request that brings an answer."""


@dataclass(frozen=True, eq=False)
class Shown:
    """N pairs of segments to compare.

    Attributes:
        observation: ``(N, 2, L, O)``, raw.
        action: ``(N, 2, L, A)``, the environment's.
        robot: Whose.
    """

    observation: FloatArray
    action: FloatArray
    robot: str

    @classmethod
    def of(cls, run: Run, seed: int, count: int, length: int) -> "Shown":
        """Draw pairs of segments of what the agent of one seed did online, the same ones each time.

        Raises:
            RunError: The run is not finished, was never online, or has no such seed.
            OfflineRLError: Its robot cannot be filmed, or no episode is long enough.
        """
        config = run.config
        if config["options"].get("online_steps", 0) == 0:
            raise RunError(f"{run.path} has collected nothing online; give a run with --online_steps")
        if seed not in config["options"]["seeds"]:
            raise RunError(f"{run.path} has no seed {seed}; choose one of {config['options']['seeds']}")
        robot = find_task(config["task"]).robot.name
        if robot not in FILMED:
            raise RunError(f"{robot} cannot be shown from its observations; only {', '.join(FILMED)} can")
        if not (run.path / "agents" / f"seed-{seed}").is_dir():
            raise RunError(f"{run.path} is not finished; continue it first by offline-rl resume {run.path}")
        agent = load_agent(run.path / "agents" / f"seed-{seed}")
        rows = PackedRows.empty(agent.observation_size, agent.action_size)
        collected = np.fromfile(run.path / "checkpoint" / f"replay-seed-{seed}.f32", "<f4").reshape(-1, rows.width)
        replay = Replay(rows, len(collected))
        replay.append(collected.astype(np.float32, copy=False))
        experience = Experience.of(replay)
        segments = experience.segments(length, len(experience.bounds))
        if segments is None:
            raise RunError(f"no episode of {run.path} has {length} steps; give a smaller --length")
        drawn = segment_rows(segments.draw(count, Stream(seed, "labelling"))[:, :, 0], length)
        observation, action = (column.numpy() for column in experience.steps(drawn))
        own = agent.preprocessing
        return cls(observation * own.observation_std + own.observation_mean, own.to_environment(action), robot)

    def __len__(self) -> int:
        return len(self.observation)

    def films(self, pair: int) -> tuple[bytes, bytes]:
        """Return both films of a pair as GIFs.

        Raises:
            VideoError: There is no OpenGL here.
        """
        task = find_task(self.robot)
        environment: Any = make_env(task, dynamics_of(task, None)).unwrapped
        first, second = (positions(own, environment.model.nq, environment.dt) for own in self.observation[pair])
        films = (gif_of(environment.model, where, 1 / PICTURES_PER_SECOND) for where in (first, second))
        return next(films), next(films)


def positions(observation: FloatArray, joints: int, seconds: float) -> npt.NDArray[np.float64]:
    """Return MuJoCo's ``qpos`` ``(L, joints)`` of a segment's observations ``(L, O)``, from place 0.

    An observation is ``qpos`` without its first entry, then ``qvel``, whose first entry is the speed.
    """
    speed = observation[:, joints - 1].astype(np.float64)
    place = np.concatenate([[0.0], np.cumsum(speed[:-1]) * seconds])
    return np.column_stack([place, observation[:, : joints - 1]])


@dataclass
class Answers:
    """What a person has said so far, kept in a file after each answer.

    Attributes:
        shown: What is compared.
        path: The file; pairs that it holds already are not shown again.
        said: Labels by the numbers of pairs; None for one that was skipped.
    """

    shown: Shown
    path: Path
    said: dict[int, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        before = read_contents(self.path)
        for label, one in zip(before.label, before.observation, strict=True):
            found = [n for n, other in enumerate(self.shown.observation) if np.array_equal(one, other)]
            if not found:
                raise RunError(f"{self.path} holds other pairs than these; choose another --out")
            self.said[found[0]] = float(label)

    @property
    def next(self) -> int | None:
        """The first pair that nothing is said of; None after the last."""
        return next((number for number in range(len(self.shown)) if number not in self.said), None)

    def say(self, pair: int, answer: str) -> None:
        """Take an answer, and write all of them down."""
        self.said[pair] = ANSWERS[answer]
        kept = [number for number, label in sorted(self.said.items()) if label is not None]
        if not kept:
            return
        labels = [self.said[number] for number in kept]
        columns = {f"obs_{k + 1}": self.shown.observation[kept, k] for k in (0, 1)}
        columns |= {f"action_{k + 1}": self.shown.action[kept, k] for k in (0, 1)}
        content = io.BytesIO()
        np.savez(content, **columns, label=np.array(labels, np.float64))  # type: ignore[arg-type]
        with writing(self.path, MAKE_ROOM):
            write_bytes(self.path, content.getvalue())


class Desk:
    """The page on which a person compares, and its server.

    Args:
        answers: What is compared, and where answers go.
        films: Of each pair, as ``Shown.films`` makes them.
        port: Where it listens; 0 for any that is free.
    """

    def __init__(self, answers: Answers, films: Sequence[tuple[bytes, bytes]], port: int = 0) -> None:
        self.answers, self._films = answers, films
        self._secret, self._one_at_a_time = secrets.token_urlsafe(24), threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/{self._secret}/"

    def trusted(self, host: str | None, path: str) -> str | None:
        """Return what is asked for below the secret; None for a stranger."""
        port = self.server.server_address[1]
        parts = path.split("/", 2)
        known = len(parts) == 3 and hmac.compare_digest(parts[1].encode(), self._secret.encode())
        return parts[2] if known and host == f"127.0.0.1:{port}" else None

    def get(self, asked: str) -> tuple[str, bytes] | None:
        """Return the kind and the bytes of a page or a film; None if there is no such thing."""
        if asked == "":
            return "text/html; charset=utf-8", self.page().encode()
        films = {f"{pair}-{k}.gif": film for pair, both in enumerate(self._films) for k, film in enumerate(both)}
        return ("image/gif", films[asked]) if asked in films else None

    def post(self, content: bytes) -> bool:
        """Take an answer; say whether it was one."""
        try:
            given = json.loads(content)
            pair, answer = given["pair"], given["answer"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        with self._one_at_a_time:
            known = isinstance(answer, str) and answer in ANSWERS
            if not known or type(pair) is not int or pair != self.answers.next:
                return False
            self.answers.say(pair, answer)
            return True

    def page(self) -> str:
        """Return the page with the next pair."""
        pair, count = self.answers.next, len(self.answers.shown)
        if pair is None:
            return PAGE.replace("BODY", f"<p>All {count} pairs are done. Close this page and stop the command.</p>")
        films = "".join(f'<img src="{pair}-{k}.gif" alt="film {k + 1}">' for k in (0, 1))
        keys = {"first": "← left", "equal": "↓ equal", "skip": "s skip", "second": "right →"}
        buttons = "".join(f'<button data-answer="{name}">{text}</button>' for name, text in keys.items())
        said = f"Pair {pair + 1} of {count}: which behaviour is better?"
        return PAGE.replace("BODY", f'<p>{said}</p><div>{films}</div><div data-pair="{pair}">{buttons}</div>')


PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Compare</title>
<style>body{font-family:sans-serif;text-align:center}img{width:45%;max-width:480px;margin:4px}
button{font-size:1.2em;margin:8px;padding:8px 20px}</style><body>BODY<script>
const place = document.querySelector("[data-pair]");
const keys = {ArrowLeft: "first", ArrowRight: "second", ArrowDown: "equal", s: "skip"};
let sent = false;
async function answer(name) {
  if (!place || sent || !name) return;
  sent = true;
  await fetch("", {method: "POST", body: JSON.stringify({pair: Number(place.dataset.pair), answer: name})});
  location.reload();
}
document.querySelectorAll("button").forEach(own => own.addEventListener("click", () => answer(own.dataset.answer)));
document.addEventListener("keydown", event => answer(keys[event.key]));
</script></body></html>"""
"""The whole page; BODY stands for what changes."""
POLICY = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: films and answers, from here alone."""


def _handler(desk: Desk) -> type[BaseHTTPRequestHandler]:
    """Return what answers the requests of one desk."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            asked = desk.trusted(self.headers.get("Host"), self.path)
            found = None if asked is None else desk.get(asked)
            self._send(*((200, *found) if found else (404, "text/plain", b"not found")))

        def do_POST(self) -> None:
            asked = desk.trusted(self.headers.get("Host"), self.path)
            length = self.headers.get("Content-Length", "")
            fits = length.isascii() and length.isdigit() and int(length) <= LARGEST_REQUEST
            taken = asked == "" and fits and desk.post(self.rfile.read(int(length)))
            self._send(*((200, "text/plain", b"ok") if taken else (400, "text/plain", b"refused")))

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
            headers |= {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
            for name, value in {**headers, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
