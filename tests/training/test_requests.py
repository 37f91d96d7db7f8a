"""A request means the same to a worker in this process and to one behind messages."""

import json
import os

import pytest
import torch

from offline_rl.training.requests import LocalWorker, RemoteWorker, answering, ready


class Echo:
    """Answers with what it is given, and keeps it."""

    def say(self, *, value, number=0):
        self.value = value
        return {"value": value, "both": (number, [torch.tensor([number])])}

    def read(self, *, file):
        with os.fdopen(file) as opened:
            return opened.read()


class Behind:
    """A client whose worker is behind messages: what is sent is JSON and named tensors, as over a socket."""

    def __init__(self, worker):
        self.ask = RemoteWorker.ask.__get__(self)
        self.answer = RemoteWorker.answer.__get__(self)
        self._answer = answering(worker)

    def send(self, message, tensors, file):
        message = json.loads(json.dumps(message)) | ({"file": os.dup(file)} if file is not None else {})
        answer, answered = self._answer(message, {name: tensor.clone() for name, tensor in tensors.items()})
        self._answered = json.loads(json.dumps(answer)), {name: t.clone() for name, t in answered.items()}

    def receive(self):
        return self._answered


@pytest.mark.parametrize("client_of", [Behind, lambda worker: LocalWorker(worker, "echo")])
def test_values_and_tensors_arrive_as_copies(client_of):
    worker = Echo()
    client, sent = client_of(worker), torch.ones(2)
    client.ask(Echo.say, value={"weights": sent, "words": ["a", None, 0.5]}, number=3)
    answer = client.answer()
    assert answer["value"]["words"] == ["a", None, 0.5]
    assert answer["both"][0] == 3
    assert answer["both"][1][0].tolist() == [3]
    worker.value["weights"] += 1
    assert sent.tolist() == answer["value"]["weights"].tolist() == [1, 1]


@pytest.mark.parametrize("client_of", [Behind, lambda worker: LocalWorker(worker, "echo")])
def test_a_file_is_the_workers_own_to_close(client_of, tmp_path):
    (tmp_path / "x").write_text("data")
    client = client_of(Echo())
    with (tmp_path / "x").open() as file:
        client.ask(Echo.read, file=file.fileno())
        assert client.answer() == "data"
        assert not file.closed


def test_a_worker_here_does_its_work_in_order_and_when_it_is_asked_for_the_answer():
    worker = Echo()
    client = LocalWorker(worker, "echo")
    for number in (1, 2):
        client.ask(Echo.say, value=number)
    assert not hasattr(worker, "value")
    assert ready([client], 0) == [client]
    assert [client.answer()["value"] for _ in range(2)] == [1, 2]


def test_an_error_here_is_raised_as_it_is():
    client = LocalWorker(Echo(), "echo")
    client.ask(Echo.say, unknown=1)
    with pytest.raises(TypeError, match="unknown"):
        client.answer()
