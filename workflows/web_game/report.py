"""The report: one set of data, as an HTML page that stands alone, and as Markdown; English or Chinese."""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from flowkit import Artifact
from flowkit.events import StepView
from flowkit.model import OfflineModel
from flowkit.workflows.pages import environment
from flowkit.workflows.web_game.values import Game, GameReport, GameRequest, Specification

_STAND_INS = ("plain_specification", "embedded_game")


@dataclass(frozen=True)
class Told:
    """All that a report tells. `pictures` by name."""

    request: GameRequest
    specification: Specification
    game: Game
    pictures: Mapping[str, bytes]
    steps: Sequence[StepView]
    run_id: str
    written_at: dt.datetime

    @property
    def words(self) -> Mapping[str, str]:
        return WORDS[self.specification.language]

    @property
    def computed(self) -> bool:
        """Whether no language model had a part in the page."""
        return self.game.page.embedded or self.game.page.author == OfflineModel({}).name

    @property
    def models(self) -> list[str]:
        named = [self.specification.author, "" if self.computed else self.game.page.author]
        offline = OfflineModel({}).name
        return [each for each in dict.fromkeys(named) if each and each != offline]

    @property
    def verified(self) -> Literal["browser", "structure"]:
        return "browser" if self.game.play.browser else "structure"

    @cached_property
    def fallbacks(self) -> list[str]:
        """Which stand-ins answered, and why; and what could not be checked."""
        taken = [
            f"{step.key}: {step.node}. {step.errors[-1] if step.errors else ''}".strip()
            for step in self.steps
            if step.node in _STAND_INS
        ]
        if self.verified == "structure":
            taken.append(f"play: {self.words['unplayed']} {self.game.play.why_not}.")
        return taken

    @property
    def author(self) -> str:
        """Who wrote the page: the first line of the report."""
        words = self.words
        if self.game.page.embedded:
            return words["embedded"]
        if self.computed:
            return words["offline"]
        return words["written"].format(model=self.game.page.author)

    @property
    def verdict(self) -> str:
        """How far it was checked: the second line."""
        play, words = self.game.play, self.words
        if self.verified == "structure":
            return words["structure"].format(why=play.why_not)
        return words["played"].format(
            browser=play.browser, sandbox=play.sandbox, checks=len(play.passed)
        )

    @cached_property
    def shown(self) -> Sequence[tuple[str, str]]:
        """The pictures as data URLs."""
        return [
            (name, "data:image/png;base64," + base64.b64encode(png).decode())
            for name, png in self.pictures.items()
        ]


def report_of(told: Told, *, html: Artifact, markdown: Artifact) -> GameReport:
    """The report's value, with its pages."""
    return GameReport(
        title=told.specification.title,
        language=told.specification.language,
        models=told.models,
        computed=told.computed,
        embedded=told.game.page.embedded,
        verified=told.verified,
        browser=told.game.play.browser,
        attempts=told.game.attempts,
        fallbacks=told.fallbacks,
        game=told.game.page.html,
        html=html,
        markdown=markdown,
        screenshots=told.game.play.screenshots,
    )


def render(told: Told, template: str) -> str:
    """One of the pages: `report.html.j2` or `report.md.j2`."""
    data: dict[str, Any] = {
        "told": told,
        "w": told.words,
        "spec": told.specification,
        "play": told.game.play,
        "written_at": told.written_at.strftime("%Y-%m-%d %H:%M UTC"),
    }
    text = environment("flowkit.workflows.web_game").get_template(template).render(data)
    return re.sub(r"\n{3,}", "\n\n", text)


WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "written": "Written by a language model: {model}.",
            "offline": "No language model was used. The offline stand-in handed over the game that ships with flowkit.",
            "embedded": "No model's page passed: this is the game that ships with flowkit, not written for this request.",
            "played": "Played in {browser} ({sandbox}), at desktop and phone width: {checks} checks passed.",
            "structure": "Not played: {why}. Only its text was checked.",
            "unplayed": "only the page's text was checked.",
            "request": "The request",
            "look": "Look",
            "wishes": "Wishes",
            "assumptions": "Decided where the request left it open",
            "versions": "What became of each version",
            "version": "Version",
            "by": "By",
            "verdict": "Verdict",
            "accepted": "accepted",
            "refused": "sent back",
            "fallbacks": "Stand-ins that were taken",
            "none": "none",
            "checks": "What was played",
            "pictures": "As it was seen",
            "made": "Made {when} by flowkit, run {run}.",
        },
        "zh": {
            "written": "由语言模型编写：{model}。",
            "offline": "没有使用语言模型。离线替身交付的是 flowkit 自带的游戏。",
            "embedded": "没有模型写出的页面通过检查：这是 flowkit 自带的游戏，不是为这个需求编写的。",
            "played": "已在 {browser} 中实际试玩（{sandbox}），桌面与手机宽度，共 {checks} 项检查通过。",
            "structure": "没有试玩：{why}。只检查了页面的文本。",
            "unplayed": "只检查了页面的文本。",
            "request": "需求",
            "look": "外观",
            "wishes": "愿望",
            "assumptions": "需求没有说明、由我们决定的事项",
            "versions": "每个版本的结果",
            "version": "版本",
            "by": "作者",
            "verdict": "结果",
            "accepted": "通过",
            "refused": "退回",
            "fallbacks": "采用的后备方案",
            "none": "无",
            "checks": "试玩内容",
            "pictures": "实际画面",
            "made": "flowkit 制作于 {when}，运行 {run}。",
        },
    }
)
