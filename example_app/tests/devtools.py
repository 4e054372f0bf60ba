"""
A headless Chromium, driven over its DevTools protocol with nothing but a WebSocket.

Several windows, and only what the browser tests need: open, evaluate, type, listen for complaints and requests.
"""

import base64
import json
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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


class Exchange(NamedTuple):
    """A request of a page, and how it was answered."""

    method: str
    path: str
    """Without the query."""
    status: int | str
    """As it came over the network, so also 304; or, where nothing came, the reason."""


@dataclass
class _Request:
    """What the browser has told of a request so far; a redirect adds to it."""

    hops: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[int | str] = field(default_factory=list)
    over: str | None = None
    """Why nothing more comes."""

    @property
    def settled(self) -> bool:
        if self.over == "finished":
            return len(self.statuses) >= len(self.hops)
        return self.over is not None or not self.hops

    def exchanges(self) -> Iterator[Exchange]:
        for number, (method, url) in enumerate(self.hops):
            status = self.statuses[number] if number < len(self.statuses) else self.over or "under way"
            yield Exchange(method, urlsplit(url).path, status)


class Browser:
    """A Chromium that runs."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._commands = 0
        self._pages: dict[str, Page] = {}

    def profile(self) -> str:
        """Make a profile with a cache and cookies of its own, and return its id."""
        return str(self.command("Target.createBrowserContext")["browserContextId"])

    def window(self, profile: str | None = None) -> "Page":
        """Open a window with an empty page."""
        where = {"browserContextId": profile} if profile else {}
        target = self.command("Target.createTarget", url="about:blank", newWindow=True, **where)["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        return page

    def command(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; pages hear of what comes before it."""
        self._commands += 1
        message: dict[str, Any] = {"id": self._commands, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            answer = self._receive(2 * LIMIT)
            if answer.get("id") != self._commands:
                continue
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def listen_until(self, condition: Callable[[], bool]) -> bool:
        """Hear what happens until a condition holds; whether it did in time."""
        end = time.monotonic() + LIMIT
        while not condition():
            try:
                self._receive(end - time.monotonic())
            except TimeoutError:
                return False
        return True

    def _receive(self, seconds: float) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=max(seconds, 0)))
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.note(message["method"], message["params"])
        return message


class Page:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._requests: defaultdict[str, _Request] = defaultdict(_Request)
        self._going_to = self._loaded = ""
        self.complaints: list[str] = []
        """Exceptions, and what the page or the browser wrote to the console as an error."""

    def open(self, url: str) -> None:
        """Go to a URL; does not wait for the page."""
        self.command("Page.navigate", url=url)

    def close(self) -> None:
        """Close the window."""
        self.command("Page.close")

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

    def wait_for_page(self, ending: str) -> bool:
        """Wait until a page whose URL ends like that is there with all its parts; whether it came."""
        return self._browser.listen_until(lambda: self._loaded.endswith(ending))

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field, type a text and press Enter."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            self.command("Input.dispatchKeyEvent", type=kind, text="\r" if kind == "keyDown" else "", **key)

    def wait_for_silence(self) -> bool:
        """Wait until nothing that was asked for is under way; whether it came to that."""
        return self._browser.listen_until(lambda: all(request.settled for request in self._requests.values()))

    def exchanges(self) -> set[Exchange]:
        """Return what the pages of this window have asked for, and what they got."""
        return {exchange for request in self._requests.values() for exchange in request.exchanges()}

    def screenshot(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Write a picture of the whole page."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command about this page and return its result."""
        return self._browser.command(method, self._session, **parameters)

    def note(self, event: str, parameters: dict[str, Any]) -> None:
        """Keep what the browser tells of this page."""
        if event.startswith("Network."):
            self._note_request(event, parameters)
        match event:
            case "Page.frameNavigated" if "parentId" not in parameters["frame"]:
                self._going_to, self._loaded = parameters["frame"]["url"], ""
            case "Page.loadEventFired":
                self._loaded = self._going_to
            case "Runtime.exceptionThrown":
                self.complaints.append(_text_of(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                entry = parameters["entry"]
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    def _note_request(self, event: str, parameters: dict[str, Any]) -> None:
        request = self._requests[parameters.get("requestId", "")]
        match event.removeprefix("Network."):
            case "requestWillBeSent":
                request.hops.append((parameters["request"]["method"], parameters["request"]["url"]))
            case "webSocketCreated":
                request.hops.append(("WebSocket", parameters["url"]))
            case "responseReceivedExtraInfo":
                request.statuses.append(parameters["statusCode"])
            case "responseReceived" if not parameters["hasExtraInfo"]:  # from the browser's own memory
                request.statuses.append(parameters["response"]["status"])
            case "webSocketHandshakeResponseReceived":
                request.statuses.append(parameters["response"]["status"])
            case "loadingFinished" | "webSocketClosed":
                request.over = request.over or "finished"
            case "loadingFailed":
                request.over = parameters["errorText"]
            case "webSocketFrameError":
                request.over = parameters["errorMessage"]


def _text_of(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description", details["text"]))


@contextmanager
def running_browser(chromium: str) -> Iterator[Browser]:
    """Start a browser for a block, with a new profile."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *OPTIONS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 -- found on the path
        killer = threading.Timer(LIMIT, process.kill)  # ends the wait for the announcement
        try:
            killer.start()
            address = _announced(process)
            killer.cancel()
            with connect(address, max_size=None, proxy=None) as socket:
                yield Browser(socket)
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
