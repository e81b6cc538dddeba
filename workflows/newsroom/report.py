"""The printed article: one set of data, as an HTML page that stands alone, and as Markdown.

All texts are escaped: by Jinja's autoescape in HTML, by the `md` filter in Markdown.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flowkit import Artifact
from flowkit.chat import Usage
from flowkit.events import StepView
from flowkit.workflows.newsroom.values import Article, Brief, Decision, Deed, Draft, Notes, Share
from flowkit.workflows.pages import environment

OFFLINE = "flowkit-offline"
"""The name of `OfflineModel`, which computes and does not think."""


@dataclass(frozen=True)
class Material:
    """All that an article tells."""

    brief: Brief
    notes: Notes
    draft: Draft
    titles: Mapping[str, str]
    usage: Mapping[tuple[str, str], Usage]
    steps: Sequence[StepView]
    run_id: str
    written_at: dt.datetime

    @cached_property
    def sources(self) -> list[str]:
        """The documents that the article rests on, in the order in which it names them."""
        return list(dict.fromkeys(id for part in self.draft.paragraphs for id in part.sources))

    @cached_property
    def decisions(self) -> list[Decision]:
        """What became of each version; the last one was accepted by both."""
        found = [
            Decision(
                version=number,
                by="sources" if text.startswith("sources: ") else "critic",
                accepted=False,
                text=text.removeprefix("sources: "),
            )
            for number, text in enumerate(self.draft.rejections, 1)
        ]
        last = len(found) + 1
        accepted = [Decision(version=last, by=by, accepted=True) for by in ("sources", "critic")]
        return [*found, *accepted]

    @cached_property
    def deeds(self) -> list[Deed]:
        return [*self.notes.deeds, *self.draft.deeds]

    @cached_property
    def shares(self) -> list[Share]:
        return [
            Share(
                agent=agent,
                model=model,
                turns=self._turns(agent),
                input_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
                cost_usd=used.cost_usd,
            )
            for (agent, model), used in self.usage.items()
        ]

    def _turns(self, agent: str) -> int:
        """Turns that gave something, over all its inquiries; of the critic, versions that it judged."""
        if agent == "critic":
            return sum(each.by == "critic" for each in self.decisions)
        turns, last = 0, 0
        for each in (each for each in self.deeds if each.agent == agent):
            turns += each.turn != last
            last = 0 if each.what.startswith("answered: ") else each.turn  # the next inquiry begins
        return turns

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(each.model for each in self.shares))

    @property
    def computed(self) -> bool:
        """Whether no language model had a part in it."""
        return set(self.models) <= {OFFLINE}

    @property
    def author(self) -> str:
        """Who wrote it, and from what if that is not true: an article's first lines."""
        invented = " The documents are invented: they ship with flowkit as an example."
        return self._writer() + (invented if self.brief.sample else "")

    def _writer(self) -> str:
        if self.computed:
            return (
                "No language model was used. An offline stand-in put this together by fixed rules, from "
                "sentences of the documents; it shows how the newsroom works, not how an article reads."
            )
        by = {each.agent: each.model for each in self.shares}
        named = [f"{agent}: {model}" for agent, model in by.items()]
        return f"Written by language models ({'; '.join(named)}). Check it before you print it."


def article_of(told: Material, *, html: Artifact, markdown: Artifact) -> Article:
    """The article's value, with its pages."""
    return Article(
        headline=told.draft.headline,
        standfirst=told.draft.standfirst,
        words=told.draft.words,
        sources=told.sources,
        decisions=told.decisions,
        shares=told.shares,
        models=told.models,
        computed=told.computed,
        html=html,
        markdown=markdown,
    )


def render(told: Material, template: str) -> str:
    """One of the pages: `article.html.j2` or `article.md.j2`."""
    data: dict[str, Any] = {
        "told": told,
        "draft": told.draft,
        "brief": told.brief,
        "numbers": {id: number for number, id in enumerate(told.sources, 1)},
        "written_at": told.written_at.strftime("%Y-%m-%d %H:%M UTC"),
    }
    text = environment("flowkit.workflows.newsroom").get_template(template).render(data)
    return re.sub(r"\n{3,}", "\n\n", text)
