"""The player: a process of its own that opens a stranger's page in Chromium, plays it, and tells.

Started by `browser.py` as `python -m flowkit.workflows.web_game.play.player`. On stdin a line of JSON
(`html`, `program`, `sandbox`, `home`, `only`), and its end when the host is gone; on stdout an object a line, as
things happen, so that whoever ends a player that hangs knows at what.

The page has no network: every request but that for the page itself is refused and told, names do not
resolve, and the proxy is a port where nobody listens. The page's own policy, which goes with it, says the same.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from typing import Any

from flowkit.workflows.web_game.play.board import STORED, Board, Wrong
from flowkit.workflows.web_game.play.checks import DESKTOP, PHONE, Check

URL = "http://game.invalid/"
FAULTS_MAX = 12
PICTURES_MAX = 6

ARGS = (
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
)
WIDTHS: Mapping[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}


def tell(**what: Any) -> None:
    print(json.dumps(what, ensure_ascii=False), flush=True)  # noqa: T201  (the protocol)


class Tab:
    """One width: a fresh browser, what the page does that it must not, and its pictures."""

    def __init__(self, context: Any, where: str, html: str) -> None:
        self.where = where
        self.faults = self.pictures = 0
        self.check = "opens"
        self._noises: set[str] = set()
        self._html = html
        self.context = context
        self.context.set_default_timeout(8000)
        self.context.route("**/*", self._serve)
        self.context.route_web_socket("**/*", self._socket)
        self.page = self.context.new_page()
        self.board = Board(self.page, URL, self._did, touch=where == "phone")
        tell(browser=self.board.browser)
        self.page.on("console", self._console)
        self.page.on("pageerror", self._error)
        self.page.on("dialog", self._dialog)
        self.page.on("popup", self._popup)
        self.page.on("download", self._download)

    def _did(self, did: str) -> None:
        tell(did=did, where=self.where, check=self.check)

    def _serve(self, route: Any) -> None:
        request = route.request
        if request.url == URL and request.is_navigation_request():
            route.fulfill(status=200, content_type="text/html;charset=utf-8", body=self._html)
            return
        if not request.url.endswith("/favicon.ico"):
            self.noise("network", "no request", f"it asked for {request.url[:200]}")
        route.abort()

    def _socket(self, socket: Any) -> None:
        self.noise("network", "no request", f"it opened a socket to {socket.url[:200]}")
        socket.close()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            blocked = "Content Security Policy" in message.text
            self.noise(
                "network" if blocked else "console",
                "no request, everything is inside the page" if blocked else "no error",
                message.text,
            )

    def _error(self, error: Any) -> None:
        self.noise("console", "no error", str(error))

    def _download(self, _: Any) -> None:
        self.noise("download", "no download", "one began")

    def _dialog(self, dialog: Any) -> None:
        self.noise("dialog", "no dialog: tell it in [data-status]", f"{dialog.type}() was called")
        dialog.dismiss()

    def _popup(self, page: Any) -> None:
        self.noise("popup", "no other window", "it opened one")
        page.close()

    def noise(self, check: str, expected: str, seen: str) -> None:
        """What the page did on the side; told once."""
        key = f"{check} {seen}"
        if key not in self._noises:
            self._noises.add(key)
            self.fault(check, expected, seen[:400], picture="")

    def fault(self, check: str, expected: str, seen: str, *, picture: str) -> None:
        self.faults += 1
        if self.faults <= FAULTS_MAX:
            tell(fault={"check": check, "where": self.where, "did": self.board.did, "expected": expected,
                        "seen": seen, "screenshot": picture})  # fmt: skip

    def picture(self, name: str) -> str:
        """Take a picture and tell it; its name, or nothing if there were enough."""
        if self.pictures >= PICTURES_MAX:
            return ""
        self.pictures += 1
        png = self.page.screenshot(animations="disabled", timeout=5000, full_page=True)
        tell(shot={"name": f"{name}.png", "png": base64.b64encode(png).decode()})
        return f"{name}.png"

    def play(self, checks: Mapping[str, Check]) -> bool:
        """Every check; what was wrong is told as it is found. False for a page that answers no more."""
        from playwright.sync_api import Error

        for name, check in checks.items():
            self.check = name
            before = self.faults
            try:
                self.board.open()
                check(self.board)
            except Wrong as wrong:
                shown = self.picture(f"{self.where}-{name}")
                self.fault(name, wrong.expected, wrong.seen, picture=shown)
            except Error as error:
                self.fault(name, "a page that answers", str(error).splitlines()[0], picture="")
                return False
            if self.faults == before:
                tell(passed=f"{self.where}: {name}")
            elif name == "opens":
                break  # without the board nothing else can be played
        if kept := self.board.read(STORED):
            self.noise("storage", "nothing is stored", str(kept))
        return True

    def show(self) -> None:
        """A picture of a game in the middle, for the report."""
        self.board.open()
        for cell in ((7, 7), (6, 8), (8, 8), (6, 6), (6, 7), (8, 7)):
            self.board.put(*cell)
        self.board.press("skip")
        for cell in ((9, 9), (7, 5)):
            self.board.put(*cell)
        self.board.put(5, 7)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.wait_for_timeout(300)
        self.picture(self.where)


def end_with_host(home: str) -> None:
    """When the host is gone, so are we and the profiles, and with our pipes the driver and the browser."""
    sys.stdin.read()
    shutil.rmtree(home, ignore_errors=True)
    os._exit(1)


def adopt() -> None:
    """Have what the browser leaves behind as children of ours, so that the host finds it to end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    host = threading.Thread(target=end_with_host, args=(order["home"],), daemon=True)
    host.start()
    adopt()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        for where, checks in (("desktop", DESKTOP), ("phone", PHONE)):
            only = order["only"] or [f"{where}: {name}" for name in checks]
            wanted = {name: each for name, each in checks.items() if f"{where}: {name}" in only}
            if not wanted:
                continue
            context = playwright.chromium.launch_persistent_context(
                f"{order['home']}/{where}",
                executable_path=order["program"],
                chromium_sandbox=order["sandbox"],
                args=list(ARGS),
                timeout=30_000,
                locale="en-US",
                accept_downloads=False,
                service_workers="block",
                **WIDTHS[where],
            )
            tab = Tab(context, where, order["html"])
            if not tab.play(wanted):
                break
            if not tab.faults and not order["only"]:
                tab.show()
            context.close()
        tell(end=True)
        host.join()  # whoever began this ends it


if __name__ == "__main__":
    main()
