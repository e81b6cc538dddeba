"""Makes web_game.png: `python docs/pictures/web_game.py`, with the extras browser and workflows.

The real workflow runs offline, and the pictures are those that its check took of the game.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path

import anyio

from flowkit import Engine
from flowkit.model import OfflineModel
from flowkit.store import MemoryStore
from flowkit.workflows.web_game import EXAMPLE, OFFLINE_RULES, Browser, web_game

HERE = Path(__file__).parent


async def pictures() -> list[bytes]:
    store = MemoryStore()
    async with Engine(store, model=OfflineModel(OFFLINE_RULES)) as engine:
        report = await engine.run(web_game, EXAMPLE)
    return [await store.get(each.sha256) for each in report.screenshots]


def main() -> None:
    """Both widths side by side, put together by the same browser."""
    urls = [
        "data:image/png;base64," + base64.b64encode(png).decode() for png in anyio.run(pictures)
    ]
    images = "".join(
        f'<img src="{url}" style="height:640px;border:1px solid #bbb">' for url in urls
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(f'<body style="margin:8px;display:flex;gap:12px;width:1360px">{images}')
        subprocess.run(
            [
                str(Browser.found().program), "--headless", "--no-sandbox", "--disable-gpu",
                f"--user-data-dir={folder}/profile", "--window-size=1376,660", "--hide-scrollbars",
                f"--screenshot={HERE / 'web_game.png'}", page.as_uri(),
            ],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
