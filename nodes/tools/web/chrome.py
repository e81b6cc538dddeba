"""A program of its own: opens one page in Chromium by Playwright, and writes what it holds to stdout.

It is started by `browser.py`, which tells it all by one line of JSON on stdin, and ends it. It imports
nothing of flowkit.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

FLAGS: Final = (
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-extensions",
    "--no-pings",
    # Chromium's own errands: a sign-in and a message service that nobody has asked for.
    "--allow-browser-signin=false",
    "--gaia-url=http://127.0.0.1:9",
    "--gcm-checkin-url=http://127.0.0.1:9",
    "--gcm-registration-url=http://127.0.0.1:9",
)
HEAVY: Final = frozenset({"image", "media", "font"})
QUIET_S: Final = 5.0


def main() -> None:
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path.extend(told["path"])
    library: Any = import_module("playwright.sync_api")
    try:
        with library.sync_playwright() as playwright:
            found = page_of(playwright, told, library.Error)
    except library.Error as error:
        found = {"error": str(error).partition("\n")[0][:300]}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


def page_of(playwright: Any, told: dict[str, Any], failure: type[BaseException]) -> dict[str, Any]:
    until: float = time.monotonic() + told["time_s"]

    def left_ms() -> float:
        return max(until - time.monotonic(), 0.1) * 1000

    context = playwright.chromium.launch_persistent_context(
        told["profile"],
        executable_path=told["executable"],
        headless=True,
        chromium_sandbox=told["sandbox"],
        env=told["env"],
        args=list(FLAGS),
        proxy=told["proxy"],
        accept_downloads=False,
        service_workers="block",
        timeout=left_ms(),
    )
    context.route("**/*", _lightly)
    page = context.new_page()
    answer = page.goto(told["url"], wait_until="domcontentloaded", timeout=left_ms())
    with suppress(failure):  # a page that is never quiet is taken as it is
        page.wait_for_load_state("networkidle", timeout=min(left_ms(), QUIET_S * 1000))
    html: str = page.content()
    status = answer.status if answer is not None else 200
    return {
        "url": page.url,
        "status": status,
        "html": html[: told["characters"]],
        "cut": len(html) > told["characters"],
    }


def _lightly(route: Any) -> None:
    """Let a request go, but for what no text is made of."""
    if route.request.resource_type in HEAVY:
        route.abort()
    else:
        route.continue_()


if __name__ == "__main__":
    main()
