"""
A headless Chromium, driven over its DevTools protocol with nothing but a WebSocket.

One page at a time, and only what the browser test needs: open, evaluate, listen for complaints.
"""

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from websockets.sync.client import ClientConnection, connect

LIMIT = 30.0
"""Seconds that the browser may take to start, or to answer."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

OPTIONS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)

ANNOUNCEMENT = "DevTools listening on "


def find_chromium() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One page of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._commands = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """Exceptions, and what the page or the browser wrote to the console as an error."""

    def attach(self) -> None:
        """Make the page, and listen to it."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to a URL; does not wait for the page."""
        self.command("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return an expression's value; a promise is waited for."""
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(_text_of(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = LIMIT) -> bool:
        """Wait until a condition holds in the page, looking whenever the document changes; whether it did."""
        return bool(
            self.evaluate(f"""new Promise((resolve) => {{
                const holds = () => {condition};
                const look = () => holds() && (observer.disconnect(), resolve(true));
                const observer = new MutationObserver(look);
                observer.observe(document, {{subtree: true, childList: true, attributes: true}});
                setTimeout(() => resolve(holds()), {seconds * 1000});
                look();
            }})""")
        )

    def screenshot(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Write a picture of the whole page."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result, noting complaints that come before it."""
        self._commands += 1
        message: dict[str, Any] = {"id": self._commands, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=2 * LIMIT))
            if answer.get("id") != self._commands:
                self._note(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(_text_of(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                entry = parameters["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")


def _text_of(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description", details["text"]))


@contextmanager
def browser_page(chromium: str) -> Iterator[Page]:
    """Start a browser for a block, with a new profile, and open an empty page."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *OPTIONS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 -- found on the path
        killer = threading.Timer(LIMIT, process.kill)  # ends the wait for the announcement
        try:
            killer.start()
            address = _announced(process)
            killer.cancel()
            with connect(address, max_size=None, proxy=None) as socket:
                page = Page(socket)
                page.attach()
                yield page
        finally:
            killer.cancel()
            process.kill()
            process.communicate()


def _announced(process: subprocess.Popen[str]) -> str:
    said = []
    for line in process.stderr or ():
        if line.startswith(ANNOUNCEMENT):
            return line.removeprefix(ANNOUNCEMENT).strip()
        said.append(line)
    raise RuntimeError("Chromium did not start:\n" + "".join(said[-20:]))
