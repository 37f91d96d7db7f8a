"""Requests to a worker: each is a method of :class:`offline_rl.training.worker.Worker`, and is defined nowhere else.

Whoever asks names the method itself, so that its arguments are checked like those of any other call::

    client.ask(Worker.run, until=1000, report=True)
    metrics = client.answer()

A :class:`RemoteWorker` sends the method's name and its arguments to a child process, where :func:`answering` calls it.
A :class:`LocalWorker` calls it in this process. Arguments and answers are JSON values with tensors anywhere among them,
and both ways they arrive as copies, so that a run does the same either way.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

from offline_rl.processes.child import Child, Message, Tensors, wait_for

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
WORKER = "offline_rl.training.worker"
TENSOR = "a tensor"
"""The key of a JSON object that stands for a tensor, which travels beside the JSON."""


class Client(Protocol):
    """A worker as its parent sees it.

    Attributes:
        name: How error messages call it.
    """

    name: str

    def ask(self, method: Callable[Concatenate[Any, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Ask for something; each request is answered once, in order.

        Args:
            method: A method of the worker's class.
            *args: None: all arguments have names.
            **kwargs: What the method takes. An argument called ``file`` is the descriptor of an open file, of which the
                worker gets a copy, to close.
        """

    def answer(self) -> Any:
        """Wait for the answer to the oldest open request, and return it.

        Raises:
            RunError: A child process ended, or met an error of its own.
        """


class RemoteWorker(Child):
    """A worker in a child process; see :class:`offline_rl.processes.child.Child` for its arguments."""

    def ask(self, method: Callable[Concatenate[Any, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Send a request; see :meth:`Client.ask`."""
        arguments: dict[str, Any] = {**kwargs}
        tensors: dict[str, Tensor] = {}
        file = arguments.pop("file", None)
        self.send({"method": method.__name__, "arguments": _put_aside(arguments, tensors)}, tensors, file)

    def answer(self) -> Any:
        """Return the answer to the oldest open request; see :meth:`Client.answer`."""
        message, tensors = self.receive()
        return _put_back(message["answer"], tensors)


class Ahead:
    """A worker that is started before anything else is known of a run: it loads PyTorch while its parent does.

    Args:
        threads: Threads for its arithmetic; a run that asks for others does not take it.
    """

    def __init__(self, threads: int = 1) -> None:
        self._worker: RemoteWorker | None = RemoteWorker(WORKER, "a worker", threads)

    def take(self, name: str, threads: int) -> RemoteWorker | None:
        """Return the worker to the first who asks; None if it is gone, or has another number of threads."""
        worker = self._worker
        if worker is None or worker.threads != threads or not worker.alive:
            return None
        self._worker, worker.name = None, name
        return worker

    def close(self) -> None:
        """End the worker if nobody has taken it."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class LocalWorker:
    """A worker in this process, which does its work when its answer is asked for; errors keep their traceback.

    Args:
        worker: Whose methods are called.
        name: As :class:`Client` has it.
    """

    def __init__(self, worker: object, name: str) -> None:
        self.name, self._worker = name, worker
        self._requests: deque[tuple[str, dict[str, Any]]] = deque()

    def ask(self, method: Callable[Concatenate[Any, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Note a request; see :meth:`Client.ask`."""
        self._requests.append((method.__name__, _copied(kwargs)))

    def answer(self) -> Any:
        """Do what was asked for first, and return the answer."""
        name, arguments = self._requests.popleft()
        if "file" in arguments:
            arguments["file"] = os.dup(arguments["file"])
        return _copied(getattr(self._worker, name)(**arguments))


def ready(clients: Sequence[Client], timeout: float) -> list[Client]:
    """Return the clients whose answers can be had, after waiting for so many seconds at most for the first.

    Of workers in this process it is the first alone: whoever asks may want to look around before the next.
    """
    if local := [client for client in clients if isinstance(client, LocalWorker)]:
        return [*local[:1]]
    return [*wait_for([client for client in clients if isinstance(client, RemoteWorker)], timeout)]


def answering(worker: object) -> "Callable[[Message, dict[str, Tensor]], tuple[Message, Tensors]]":
    """Return what answers requests with the methods of ``worker``; for :func:`offline_rl.processes.child.serve`."""

    def answer(message: Message, tensors: "dict[str, Tensor]") -> "tuple[Message, Tensors]":
        arguments = _put_back(message["arguments"], tensors)
        if "file" in message:
            arguments["file"] = message["file"]
        answered: dict[str, Tensor] = {}
        value = getattr(worker, message["method"])(**arguments)
        return {"answer": _put_aside(value, answered)}, answered

    return answer


def _copied(value: Any) -> Any:
    """Return a value as it arrives from another process."""
    tensors: dict[str, Tensor] = {}
    message = _put_aside(value, tensors)
    return _put_back(message, {name: tensor.clone() for name, tensor in tensors.items()})


def _put_aside(value: Any, tensors: "dict[str, Tensor]") -> Any:
    """Return a value as JSON; its tensors are added to ``tensors``."""
    from torch import Tensor  # not before there is something to say: a worker is started sooner

    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        return {name: _put_aside(part, tensors) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_put_aside(part, tensors) for part in value]
    return value


def _put_back(message: Any, tensors: "Tensors") -> Any:
    """Return the value that :func:`_put_aside` took apart, with lists where it had tuples."""
    if isinstance(message, dict):
        if TENSOR in message:
            return tensors[message[TENSOR]]
        return {name: _put_back(part, tensors) for name, part in message.items()}
    if isinstance(message, list):
        return [_put_back(part, tensors) for part in message]
    return message
