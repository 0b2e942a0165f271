"""A real browser, driven over its debugging protocol: headless Chromium without a network."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no chromium; install Debian's package of that name to run the browser tests"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PATIENCE_S = 120


class Page:
    """One tab, with everything it complained about and asked for."""

    def __init__(self, address):
        self._socket = websocket.create_connection(address, timeout=PATIENCE_S)
        self._ids = itertools.count(1)
        self.complaints, self.failed, self.requests, self.events = [], [], [], set()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return what the browser answers; what it tells meanwhile is kept."""
        mine = next(self._ids)
        self._socket.send(json.dumps({"id": mine, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == mine:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message):
        name, about = message["method"], message["params"]
        self.events.add(name)
        if name == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif name == "Network.loadingFailed" and not about.get("canceled"):
            self.failed.append(about["errorText"])
        elif name == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"]["text"])
        elif name == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.complaints.append(str(about["args"]))
        elif name == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(about["entry"]["text"])

    def run(self, script):
        """Return the value of an expression in the page, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script, seconds=PATIENCE_S):
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"still false after {seconds} s: {script}"
            time.sleep(0.1)
        return value

    def open(self, address):
        """Go to an address and wait until it has loaded."""
        self.events.discard("Page.loadEventFired")
        self.call("Page.navigate", url=address)
        end = time.monotonic() + PATIENCE_S
        while "Page.loadEventFired" not in self.events:
            assert time.monotonic() < end, f"{address} did not load"
            self._note(json.loads(self._socket.recv()))

    def resize(self, width, height=900, *, media="screen", scheme="light"):
        """Show the page at this width (CSS pixels), on screen or in print, light or dark."""
        self.call("Page.bringToFront")  # a tab behind another draws nothing, and this would wait for ever
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path, height=None):
        """Keep a screenshot of the page, or of its first `height` pixels."""
        size = self.run("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height or size[1]), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self):
        """Return the page as it prints."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, displayHeaderFooter=False)
        return base64.b64decode(printed["data"])

    def close(self):
        """Close the connection; the tab goes with the browser."""
        self._socket.close()


@contextmanager
def browser(folder):
    """Start Chromium with a profile in `folder`; give a function that opens a tab."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pages = []

    def new_page():
        port = _port(Path(folder) / "DevToolsActivePort")
        with urlopen(Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")) as answer:
            pages.append(Page(json.load(answer)["webSocketDebuggerUrl"]))
        return pages[-1]

    try:
        yield new_page
    finally:
        for page in pages:
            page.close()
        process.terminate()
        process.wait(PATIENCE_S)


def wait_until(condition, what):
    """Return what `condition()` gives as soon as it is true."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not start"
        time.sleep(0.05)
    return value


def _port(file):
    wait_until(lambda: file.exists() and "\n" in file.read_text(), "chromium")
    return int(file.read_text().split()[0])
