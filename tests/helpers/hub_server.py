"""As much of the Hugging Face Hub as making, filling and reading a repository of small files takes."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories as lists of commits, each a dictionary of files.

    Attributes:
        repositories: By name, the commits, oldest first.
        requests: What was asked for, a method and a path each.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.requests = {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def sha_of(self, name, number):
        return hashlib.sha1(f"{name}/{number}".encode()).hexdigest()

    def commit(self, name, revision):
        """Return the sha and the files of a commit, or None."""
        commits = self.repositories.get(name, [])
        shas = [self.sha_of(name, number) for number in range(len(commits))]
        if revision == "main" and commits:
            return shas[-1], commits[-1]
        return next(((sha, files) for sha, files in zip(shas, commits, strict=True) if sha == revision), None)


@contextlib.contextmanager
def running_hub():
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._record()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+).*", self.path):
            if commit := self._commit(*found.groups()):
                files = [{"rfilename": file} for file in commit[1]]
                self._json({"id": found[1], "modelId": found[1], "sha": commit[0], "siblings": files, "tags": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+).*", self.path):
            if commit := self._commit(*found.groups()):
                self._json(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                        for path, content in commit[1].items()
                    ]
                )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            if (commit := self._commit(found[1], found[2])) is None:
                return
            if found[3] not in commit[1]:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            content = commit[1][found[3]]
            self._send(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit[0]})
        elif self.path == "/api/whoami-v2":
            self._json({"error": "Invalid username or password."}, 401)
        else:
            self._json({"error": f"not served here: {self.path}"}, 404)

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def do_POST(self):
        self._record()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_good":
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, [])
            self._json({"url": f"{self.server.address}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", self.path):
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            entries = [json.loads(line) for line in body.splitlines()]
            files = {
                entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
                for entry in entries
                if entry["key"] == "file"
            }
            commits = self.server.repositories[found[1]]
            commits.append({**(commits[-1] if commits else {}), **files})
            sha = self.server.sha_of(found[1], len(commits) - 1)
            url = f"{self.server.address}/{found[1]}/commit/{sha}"
            self._json({"success": True, "commitOid": sha, "commitUrl": url})
        else:
            self._json({"error": f"not served here: {self.path}"}, 501)

    def _record(self):
        self.server.requests.append((self.command, self.path))

    def _commit(self, name, revision):
        """Return a commit, or answer that there is none."""
        if name not in self.server.repositories:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        if (commit := self.server.commit(name, revision)) is None:
            self._json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return commit

    def _json(self, value, status=200, headers=None):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
