"""Child processes that answer messages, and that never outlive their parent.

A child is started as ``python -m MODULE``, never by importing the caller's script again, so a plain script without a
``__main__`` guard may start some. Parent and child speak over a socket of their own: a message is a JSON value and
named tensors as safetensors bytes, at most with an open file; nothing is pickled.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_connections
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from offline_rl.errors import OfflineRLError, RunError
from offline_rl.processes.interpreter import child_environment, python_module

if TYPE_CHECKING:
    from torch import Tensor  # whoever starts a child need not have loaded it

Message = dict[str, Any]
Tensors: TypeAlias = "Mapping[str, Tensor]"
C = TypeVar("C", bound="Child")


class Child:
    """A process that serves requests, one after the other.

    Args:
        module: The module to run; its ``main`` calls :func:`serve`.
        name: How error messages call the child.
        threads: Threads for its arithmetic.

    Attributes:
        owed: Answers that are still to be received.
    """

    def __init__(self, module: str, name: str, threads: int = 1) -> None:
        self.name, self.threads, self.owed = name, threads, 0
        ours, theirs = socket.socketpair()
        environment = child_environment(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        with theirs, ours:
            self._process = subprocess.Popen(
                [*python_module(module), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Ctrl-C in the terminal is for the parent, which tells its children what to do.
                start_new_session=True,
            )
            self.connection = Connection(ours.detach())

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def send(self, message: Message, tensors: "Tensors | None" = None, file: int | None = None) -> None:
        """Ask for something; each request is answered once, in order.

        Args:
            message: What is asked.
            tensors: What belongs to it.
            file: Descriptor of an open file; the child finds one of its own under ``"file"`` in the message.
        """
        try:
            _send(self.connection, message if file is None else {**message, "file": True}, tensors or {})
            if file is not None:
                send_handle(self.connection, file, self._process.pid)
            self.owed += 1
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def receive(self) -> "tuple[Message, dict[str, Tensor]]":
        """Wait for the answer to the oldest open request.

        Raises:
            RunError: The child ended, or met an error of its own.
        """
        try:
            message, tensors = _receive(self.connection)
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        self.owed -= 1
        if "error" in message:
            raise RunError(f"{self.name}: {message['error']}")
        return message, tensors

    def close(self) -> None:
        """End the process, with all that it has started, whatever it is doing: it may still be importing."""
        self.connection.close()
        if self._process.returncode is None:  # its number is not another's yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ended(self) -> RunError:
        code = self._process.wait()
        reason = f"was killed by signal {-code}, often for lack of memory" if code < 0 else f"ended with status {code}"
        return RunError(f"{self.name} {reason}; what was saved is intact, continue with --resume")


def wait_for(children: Sequence[C], timeout: float) -> list[C]:
    """Return the children that have answered, after waiting for so many seconds at most for the first."""
    ready = wait_for_connections([child.connection for child in children], timeout)
    return [child for child in children if child.connection in ready]


def serve(answer: "Callable[[Message, dict[str, Tensor]], tuple[Message, Tensors]]") -> None:
    """Answer the parent's requests with ``answer`` until it goes away; call this from a child's ``main``."""
    # Slurm asks all processes of a job at once to stop; when to stop is for the parent, which needs its children then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    requests: queue.SimpleQueue[tuple[Message, dict[str, Tensor]]] = queue.SimpleQueue()

    def listen() -> None:
        # A thread, so that a child in the middle of long work ends at once when its parent is killed.
        try:
            while True:
                requests.put(_receive(connection))
        except (EOFError, OSError):
            _end()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        message, tensors = requests.get()
        try:
            reply: tuple[Message, Tensors] = answer(message, tensors)
        except OfflineRLError as error:
            reply = {"error": str(error)}, {}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())}, {}
        try:
            _send(connection, *reply)
        except OSError:
            _end()


def _end() -> None:
    # With what the child has started itself: importing Gymnasium starts a process that complains when left alone.
    os.killpg(0, signal.SIGKILL)


def _send(connection: Connection, message: Message, tensors: Tensors) -> None:
    from safetensors.torch import save

    connection.send_bytes(json.dumps(message).encode())
    connection.send_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _receive(connection: Connection) -> "tuple[Message, dict[str, Tensor]]":
    from safetensors.torch import load

    message = json.loads(connection.recv_bytes())
    tensors = load(connection.recv_bytes())
    if "file" in message:
        message["file"] = recv_handle(connection)
    return message, tensors
