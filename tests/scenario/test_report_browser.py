"""The reports in a real Chromium: the chart is drawn, and the console stays clean."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import anyio
import pytest

from flowkit import Engine
from flowkit.model import OfflineModel
from flowkit.store import MemoryStore
from flowkit.workflows import deep_research
from flowkit.workflows.stock_analysis import EXAMPLE, OFFLINE_RULES, stock_analysis

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_report_draws_its_chart_without_a_console_error(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Engine(store, model=OfflineModel(OFFLINE_RULES)) as engine:
        report = await engine.run(stock_analysis, EXAMPLE)
        page = tmp_path / "report.html"
        page.write_bytes(await store.get(report.html.sha256))
    done = await anyio.run_process(
        [
            str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr",
            "--virtual-time-budget=8000", "--dump-dom", page.as_uri(),
        ],
    )  # fmt: skip
    dom = done.stdout.decode()
    candles = re.search(r'<g class="[^"]*(?:boxlayer|candlestick)[^"]*".{0,400}<path', dom)
    assert candles, "plotly drew no candlesticks"
    assert "No language model was used" in dom
    console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert not console


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_report_of_a_research_opens_without_a_console_error(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Engine(store, model=OfflineModel(deep_research.OFFLINE_RULES)) as engine:
        report = await engine.run(deep_research.deep_research, deep_research.EXAMPLE)
        page = tmp_path / "report.html"
        page.write_bytes(await store.get(report.html.sha256))
    done = await anyio.run_process(
        [
            str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr",
            "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
        ],
    )  # fmt: skip
    assert "The tower is 35 metres tall." in done.stdout.decode()
    console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert not console
