"""The check in a real Chromium: the embedded game passes, and each wrong or hostile one is found out.

The wrong ones are the embedded game with one thing changed, as a model might have written it.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from flowkit import Engine
from flowkit.chat import ModelRequest
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel
from flowkit.workflows.web_game import EXAMPLE, OFFLINE_RULES, Browser, embedded, web_game
from flowkit.workflows.web_game.extract import sealed
from flowkit.workflows.web_game.play.browser import played
from flowkit.workflows.web_game.play.checks import DESKTOP, PHONE
from flowkit.workflows.web_game.values import Fault

CHROMIUM = Browser.found({}).program

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine, or no playwright"),
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

GAME = embedded.page(embedded.plain("en"))


def changed(*pairs: tuple[str, str]) -> str:
    """The embedded game with pieces replaced, each of which stands there."""
    page = GAME
    for old, new in pairs:
        assert old in page
        page = page.replace(old, new)
    return page


def with_script(text: str) -> str:
    return changed(("make();\nbegin();", f"make();\nbegin();\n{text}"))


async def faults(page: str, *only: str) -> list[Fault]:
    assert CHROMIUM is not None
    heard, way = await played(CHROMIUM, sealed(page), only=only)
    assert way is not None, heard.trouble
    return heard.faults


# ---- the one that is right


async def test_the_offline_models_answer_passes_after_a_wrong_one_went_back_with_a_picture() -> (
    None
):
    wrong = changed(("FULL = 100,", "FULL = 90,"))

    def script(request: ModelRequest, index: int) -> object:
        bad = request.schema_name == "" and len(request.messages) == 2
        return f"```html\n{wrong}```" if bad else OFFLINE_RULES[request.schema_name](request)

    model, store = ScriptedModel(script), MemoryStore()
    async with Engine(store, model=model) as engine:
        report = await engine.run(web_game, EXAMPLE)
    told = (model.requests[-1].messages[-1].content or "").splitlines()
    assert told[1] == (
        '- [desktop, opens] opened the page: expected energy_black=100, energy_white=100, points_black="100", '
        'points_white="100"; seen: energy_black=90, energy_white=90, points_black="90", points_white="90" '
        "(screenshot: desktop-opens.png)"
    )
    assert [len(each.faults) for each in report.attempts] == [2, 0]
    assert report.verified == "browser"
    assert report.browser.startswith("Chromium ")
    assert report.fallbacks == []
    assert [each.name for each in report.screenshots] == ["desktop.png", "phone.png"]
    for each in report.screenshots:
        assert (await store.get(each.sha256)).startswith(b"\x89PNG")
    text = (await store.get(report.markdown.sha256)).decode().replace("\\", "")
    for where, checks in (("desktop", DESKTOP), ("phone", PHONE)):
        assert all(f"{where}: {name}" in text for name in checks)


# ---- those that are wrong

LYING = """
const truly = Element.prototype.getAttribute;
Element.prototype.getAttribute = function (name) {
  return name === "data-winner" ? "white" : truly.call(this, name);
};
window.game = { winner: "white", energy: { black: 100, white: 100 } };
"""

WRONG = {
    "diagonal": (changed(("[1, 1], [1, -1]]", "[1, -1]]")), "wins_diagonal", "desktop", 'winner=""'),
    "lying": (
        changed(("[1, 1], [1, -1]]", "[1, 1]]"), ("make();\n", LYING + "make();\n")),
        "wins_antidiagonal", "desktop", 'winner=""',
    ),
    "wraps": (
        changed(
            ("let r = row + down * way, c = column + right * way;",
             "let r = row + down * way, c = column + right * way; if (!down && c === SIZE) { r++; c = 0; }"),
            ("r += down * way; c += right * way;\n",
             "r += down * way; c += right * way; if (!down && c === SIZE) { r++; c = 0; }\n"),
        ),
        "no_false_win", "desktop", 'winner="black"',
    ),
    "gain": (changed(("GAIN = 10", "GAIN = 5")), "skip", "desktop", "energy_black=75"),
    "no cap": (changed(("Math.min(FULL, energy[turn] + GAIN)", "energy[turn] + GAIN")), "stones", "desktop", "energy_black=110"),
    "price": (changed(("skip: 30", "skip: 20")), "skip", "desktop", "energy_black=80"),
    "ignores the price": (
        changed((" || energy[turn] < COST.skip;", ";")), "energy", "desktop", "skip=true",
    ),
    "button only looks disabled": (
        changed(
            ("skip.disabled = ", "skip.ariaDisabled = "),
        ),
        "energy", "desktop", "energy_black=-10",
    ),
    "forced anywhere": (
        changed(("armed ? there !== other(turn) : there", "!armed && there")), "force", "desktop", "stones=",
    ),
    "bar stands still": (
        changed(("fill.style.width = `${energy[who]}%`;", "")), "skip", "desktop", "100 %",
    ),
    "stones not seen": (
        changed(("inset: 7%; border-radius: 50%;", "display: none;")),
        "stones", "desktop", "the cell looks as before",
    ),
    "covered": (
        changed(("<main>", '<div id="veil" style="position:fixed;inset:0;z-index:9"></div><main>')),
        "stones", "desktop", "div#veil lies over it",
    ),
    "too wide for a phone": (
        changed((".board { width: 100%;", ".board { min-width: 600px; width: 100%;")),
        "fits", "phone", "the content is 6",
    ),
    "no restart": (
        changed(('restart.addEventListener("click", begin);', 'restart.addEventListener("click", show);')),
        "restart", "desktop", "stones=",
    ),
    "no keyboard": (
        changed(('cell.addEventListener("click"', 'cell.addEventListener("pointerup"')),
        "keyboard", "desktop", "stones={}",
    ),
    "no touch": (
        changed(("() => play(row, column)", '(e) => e.pointerType === "touch" || play(row, column)')),
        "touch", "phone", "stones={}",
    ),
    "console": (with_script('setTimeout(() => { throw new Error("late"); }, 10);'), "console", "desktop", "late"),
    "script from elsewhere": (
        changed(("</main>", '</main><script src="https://cdn.example/x.js"></script>')),
        "network", "desktop", "cdn.example/x.js",
    ),
    "request": (
        with_script('try { window["fe" + "tch"]("https://x.example/?").catch(() => 0); } catch {}'),
        "network", "desktop", "x.example",
    ),
    "goes elsewhere": (
        with_script('setTimeout(() => { location.href = "https://x.example/y"; }, 50);'),
        "network", "desktop", "x.example/y",
    ),
    "dialog": (with_script('window["al" + "ert"]("hello");'), "dialog", "desktop", "alert() was called"),
    "storage": (
        with_script('try { window["local" + "Storage"].setItem("scores", "1"); } catch {}'),
        "storage", "desktop", "scores",
    ),
    "nothing there": (changed(("make();\nbegin();", "")), "opens", "desktop", "0 elements"),
}  # fmt: skip

PLAYED_WITH = {"console": "stones", "network": "stones", "dialog": "opens", "storage": "opens"}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_game_is_found_out_for_what_is_wrong(name: str) -> None:
    page, check, where, seen = WRONG[name]
    found = await faults(page, f"{where}: {PLAYED_WITH.get(check, check)}")
    mine = [each for each in found if (each.check, each.where) == (check, where)]
    assert mine, [str(each) for each in found]
    assert seen in mine[0].seen
    assert mine[0].did.startswith("opened the page")


# ---- those that do not want to be played


async def test_an_endless_loop_ends_and_nothing_is_left_of_the_browser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = changed(("  if (winner) return;", "  for (;;) {}"))
    home = tempfile.mkdtemp()
    os.chmod(home, 0o755)  # (the browser may be another user)
    monkeypatch.setattr(tempfile, "tempdir", home)
    found = await faults(page, "desktop: stones")
    assert found
    assert found[0].did == "opened the page; clicked cell 7,7"
    assert not left_behind(home)
    assert os.listdir(home) == []
    os.rmdir(home)


def left_behind(home: str) -> list[bytes]:
    """The command lines that name a directory."""
    found: list[bytes] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(each.read_bytes())
    return [each for each in found if home.encode() in each]


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and who connected to it."""
    came: list[object] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    came.append(server.accept())

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


async def test_a_page_without_its_policy_reaches_no_network_either(
    listener: tuple[int, list[object]],
) -> None:
    """What the browser is started with holds by itself, also against this machine."""
    port, came = listener
    assert CHROMIUM is not None
    page = with_script(
        f"""
        const host = "127.0.0.1:{port}";
        for (const each of [`http://${{host}}/a`, `http://localhost:{port}/b`]) fetch(each).catch(() => 0);
        new Image().src = `http://${{host}}/c`;
        try {{ new WebSocket(`ws://${{host}}/d`); }} catch {{}}
        try {{ navigator.sendBeacon(`http://${{host}}/e`, "x"); }} catch {{}}
        """
    )
    heard, _ = await played(CHROMIUM, page, only=["desktop: stones"])
    asked = " ".join(each.seen for each in heard.faults if each.check == "network")
    for name in ("/a", "localhost", "/c", "/d", "/e"):
        assert name in asked
    assert came == []
