"""The game that ships with flowkit: what is handed over where no model can write one, and says so.

It is also what the offline stand-in "writes", and passes the same check as anybody's.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from flowkit.chat import ChatMessage, ModelRequest
from flowkit.model.offline import facts
from flowkit.workflows.web_game.values import Language, Specification

_ASSUMED = {
    "en": "No language model read the request: this is the embedded game, as it ships with flowkit.",
    "zh": "没有语言模型读过这个需求：这是 flowkit 自带的游戏。",
}
_LOOK = {"en": "A wooden board, plain and calm.", "zh": "木质棋盘，简洁安静。"}


@cache
def _data(name: str) -> str:
    return files("flowkit.workflows.web_game").joinpath("data", name).read_text("utf-8")


def texts_of(language: Language) -> dict[str, str]:
    told: dict[str, str] = json.loads(_data("texts.json"))[language]
    return told


def plain(language: Language) -> Specification:
    """The specification of the embedded game."""
    texts = texts_of(language)
    return Specification(
        title=texts["title"],
        black=texts["black"],
        white=texts["white"],
        look=_LOOK[language],
        assumptions=[_ASSUMED[language]],
        language=language,
    )


def page(specification: Specification) -> str:
    """The embedded game with the specification's title, names and language."""
    chosen = {
        "title": specification.title,
        "black": specification.black,
        "white": specification.white,
    }
    texts = {**texts_of(specification.language), **chosen}
    told = json.dumps(texts, ensure_ascii=False, indent=1).replace("<", "\\u003c")
    lang = {"en": "en", "zh": "zh-CN"}[specification.language]
    text = _data("gomoku.html").replace("{{lang}}", lang)
    text = text.replace("{{title}}", html.escape(specification.title))
    return text.replace("{{texts}}", told)


def _specify(request: ModelRequest) -> str:
    language: Language = "zh" if facts(request)["language"] == "zh" else "en"
    return plain(language).model_dump_json(exclude={"language", "author"})


def _write(request: ModelRequest) -> str:
    specification = Specification.model_validate(facts(request))
    return f"The embedded game, with its title and names.\n\n```html\n{page(specification)}```\n"


OFFLINE_RULES: Mapping[str, Callable[[ModelRequest], str | ChatMessage]] = MappingProxyType(
    {"Specification": _specify, "": _write}
)
"""By the wanted answer's schema; the empty name is for plain text."""
