"""Chromium without a screen, where it is installed."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A page in headless Chromium, spoken to through its DevTools."""

    def __init__(self, address, folder):
        from websockets.sync.client import connect

        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
        ]
        self.process = subprocess.Popen([BROWSER, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        port = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port.exists() and port.read_text().count("\n")):
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.1)
        number = port.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
            pages = json.load(answer)
        (target,) = (page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.open, self.number, self.events = contextlib.ExitStack(), 0, []
        self.socket = self.open.enter_context(connect(target, max_size=None))
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.ask(f"{domain}.enable")
        self.visit(address)

    def visit(self, address):
        """Go to an address and wait until it is loaded."""
        self.events.clear()
        self.ask("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=30)))

    def resize(self, width):
        """Give the window another width, that of a phone's screen if it is small."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 700)

    def ask(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(timeout=30))).get("id") != self.number:
            self.events.append(answer)
        return answer["result"]

    def run(self, script):
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self):
        self.open.close()
        self.process.terminate()
        self.process.wait(timeout=30)
