"""What is checked without a model: that quotes are in their documents, and paragraphs name them."""

from __future__ import annotations

import re

from flowkit.nodes.tools.corpus import Corpus
from flowkit.workflows.newsroom.material import plain
from flowkit.workflows.newsroom.values import Draft, Notes

LENGTH_SLACK = 0.4
"""How much longer than asked an article may be. Thin material makes a short one: the critic judges that."""

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_QUOTED = re.compile(r"[\"“]([^\"“”]{12,400})[\"”]")


def note_faults(notes: Notes, corpus: Corpus) -> list[str]:
    """Each fact's quote stands in its document."""
    texts = _texts(corpus)
    faults: list[str] = []
    for fact in notes.facts:
        if fact.document not in texts:
            faults.append(f"there is no document {fact.document!r}")
        elif plain(fact.quote) not in texts[fact.document]:
            faults.append(f"{fact.document} does not say {fact.quote[:120]!r} word for word")
    return faults


def draft_faults(draft: Draft, corpus: Corpus, words: int) -> list[str]:
    """Each paragraph names documents that there are, and they have its numbers and quotations; the
    article is not much longer than was asked."""
    texts = _texts(corpus)
    faults: list[str] = []
    for number, paragraph in enumerate(draft.paragraphs, 1):
        unknown = [each for each in paragraph.sources if each not in texts]
        if unknown:
            faults.append(f"paragraph {number}: there is no document {unknown[0]!r}")
            continue
        said = "\n".join(texts[each] for each in paragraph.sources)
        for figure in dict.fromkeys(_NUMBER.findall(paragraph.text)):
            if figure not in _NUMBER.findall(said):
                faults.append(f"paragraph {number}: {figure} is in none of its sources")
        for quoted in _QUOTED.findall(paragraph.text):
            if plain(quoted).strip(".,") not in said:
                faults.append(
                    f"paragraph {number}: {quoted[:80]!r} is quoted from none of its sources"
                )
    if not any(paragraph.sources for paragraph in draft.paragraphs):
        faults.append("no paragraph names a source")
    most = round(words * (1 + LENGTH_SLACK))
    if draft.words > most:
        faults.append(f"it has {draft.words} words; {words} are asked, up to {most} would do")
    return faults


def _texts(corpus: Corpus) -> dict[str, str]:
    return {each.id: plain(f"{each.title}\n{each.text}") for each in corpus}
