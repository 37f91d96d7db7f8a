"""Serve an exported policy over HTTP, without PyTorch: numpy, onnxruntime and the standard library are enough.

Start it with ``python serve_onnx.py policy.onnx 8000``, ask it with
``curl -d '{"observation": [[0.1, 0.2, 0.3]]}' http://127.0.0.1:8000``. Each input of the file is a field of the
question, each output one of the answer. It is for trying out: it answers this machine only, one question at a time.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def make_handler(session: onnxruntime.InferenceSession) -> type[BaseHTTPRequestHandler]:
    """Return what answers questions to a policy."""
    origin = session.get_modelmeta().custom_metadata_map

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Say what the policy is, and what its inputs are."""
            self.answer(200, origin)

        def do_POST(self) -> None:
            """Act."""
            try:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inputs = {own.name: np.asarray(given[own.name], TYPES[own.type]) for own in session.get_inputs()}
                outputs = session.run(None, inputs)
            except Exception as error:
                self.answer(400, {"error": f"{type(error).__name__}: {error}"})
                return
            names = [own.name for own in session.get_outputs()]
            self.answer(200, {name: output.tolist() for name, output in zip(names, outputs, strict=True)})

        def answer(self, status: int, value: dict[str, object]) -> None:
            """Send JSON."""
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def main(path: str, port: int = 8000) -> None:
    """Answer questions until stopped."""
    handler = make_handler(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))
    with HTTPServer(("127.0.0.1", port), handler) as server:
        print(f"serving {path} on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
