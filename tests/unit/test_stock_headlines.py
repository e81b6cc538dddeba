"""Feeds in the shapes of Yahoo's RSS, Google News, RDF and Atom, and feeds that mean harm."""

from __future__ import annotations

import datetime as dt
from xml.sax.saxutils import escape

import pytest

from flowkit.workflows.stock_analysis.headlines import TITLE_MAX, parse_feed, plain, relevant
from flowkit.workflows.stock_analysis.values import Headline, Headlines
from flowkit.workflows.stock_analysis.web import SourceError

DAY = dt.date(2013, 3, 1)


def yahoo_rss(*items: tuple[str, str, str]) -> str:
    """feeds.finance.yahoo.com/rss/2.0/headline with (title, link, pubDate) for each item."""
    told = "".join(
        f"<item><description>…</description><guid isPermaLink='false'>{index}</guid>"
        f"<link>{escape(link)}</link><pubDate>{date}</pubDate><title>{escape(title)}</title></item>"
        for index, (title, link, date) in enumerate(items)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel>'
        "<copyright>Copyright (c) 2013 Yahoo! Inc.</copyright><description>Latest</description>"
        "<image><height>45</height><link>http://finance.yahoo.com/q/h?s=goog</link>"
        "<title>Yahoo! Finance: GOOG News</title></image><language>en-US</language>"
        f"<title>Yahoo! Finance: GOOG News</title>{told}</channel></rss>"
    )


ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/">
  <title>Filings</title><updated>2013-03-01T12:00:00Z</updated>
  <entry>
    <title type="html">Google &amp;amp; others: 8-K</title>
    <link rel="self" href="https://feed.example/self"/>
    <link rel="alternate" type="text/html" href="https://news.example/8k"/>
    <media:title>not this one</media:title>
    <updated>2013-02-28T18:30:02-05:00</updated>
  </entry>
  <entry><!-- empty --><title> </title><link href="https://news.example/none"/></entry>
</feed>"""

RDF = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/">
 <channel rdf:about="https://x/"><title>c</title></channel>
 <item rdf:about="https://x/1"><title>Of 1999</title><link>https://x/1</link>
  <dc:date>2013-03-01</dc:date></item>
</rdf:RDF>"""


def test_rss_gives_title_link_and_day() -> None:
    feed = yahoo_rss(
        (
            "Google climbs above $800",
            "https://news.example/1?a=1&b=2",
            "Fri, 01 Mar 2013 16:01:00 GMT",
        ),
        ("Second", "http://news.example/2", "not a date"),
    )
    assert parse_feed(feed.encode(), 8) == [
        Headline(
            title="Google climbs above $800", url="https://news.example/1?a=1&b=2", published=DAY
        ),
        Headline(title="Second", url="http://news.example/2", published=None),
    ]


def test_atom_gives_the_alternate_link_and_passes_over_the_empty() -> None:
    assert parse_feed(ATOM.encode(), 8) == [
        Headline(
            title="Google & others: 8-K",
            url="https://news.example/8k",
            published=dt.date(2013, 2, 28),
        )
    ]


def test_rdf_is_a_feed() -> None:
    assert parse_feed(RDF.encode(), 8) == [
        Headline(title="Of 1999", url="https://x/1", published=DAY)
    ]


def test_declared_encoding_counts() -> None:
    feed = yahoo_rss(("Börse", "", "")).replace("UTF-8", "ISO-8859-1").replace("…", "")
    assert parse_feed(feed.encode("latin-1"), 8)[0].title == "Börse"


def test_no_more_items_than_asked() -> None:
    feed = yahoo_rss(*[(f"t{i}", "", "") for i in range(50)]).encode()
    assert len(parse_feed(feed, 3)) == 3
    assert parse_feed(feed, 0) == []


@pytest.mark.parametrize(
    "feed", ["", "plain text", "<html><body/></html>", "<rss><channel>", "{}", "<a>" * 50_000]
)
def test_what_is_no_feed_is_refused(feed: str) -> None:
    with pytest.raises(SourceError, match="feed: "):
        parse_feed(feed.encode(), 8)


def test_markup_in_a_title_stays_text() -> None:
    (item,) = parse_feed(yahoo_rss(("<script>alert(1)</script> & <b>up</b>", "", "")).encode(), 8)
    assert item.title == "<script>alert(1)</script> & <b>up</b>"


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        " javascript:alert(1)",
        "//evil.example/x",
        "https://",
        "https://x.example/\u202ex",
        "https://x.example/a b",
        "http://[::1",
        "https://x.example/" + "a" * 2000,
    ],
)
def test_link_that_no_reader_should_follow_is_dropped(link: str) -> None:
    (item,) = parse_feed(yahoo_rss(("t", link, "")).encode(), 8)
    assert item.url == ""


def test_entities_reach_no_file_and_do_not_grow(tmp_path: object) -> None:
    secret = (
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        "<rss><channel><item><title>a&x;b</title></item></channel></rss>"
    )
    (item,) = parse_feed(secret.encode(), 8)
    assert "root" not in item.title
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    laughs = f'<!DOCTYPE r [<!ENTITY l0 "ha">{levels}]><rss><channel><item><title>&l11;</title></item></channel></rss>'
    try:
        items = parse_feed(laughs.encode(), 8)
    except SourceError:
        return
    assert all(len(item.title) < 100 for item in items)


def test_title_is_one_plain_line_of_bounded_length() -> None:
    assert plain("a\u202eb\u200b\x00\r\n  c &amp; d\ud800") == "a b c & d"
    assert len(plain("x" * 1000)) == TITLE_MAX


def news(*days: dt.date | None) -> Headlines:
    return Headlines(
        source="s", items=[Headline(title=f"t{i}", published=day) for i, day in enumerate(days)]
    )


def test_headlines_of_another_time_do_not_bear_on_old_prices() -> None:
    late = dt.date(2026, 11, 20)
    kept = relevant(news(late, DAY, dt.date(2012, 1, 1), None), DAY)
    assert [item.title for item in kept.items] == ["t1", "t3"]
    assert kept.note == "2 of 4 headlines are not from 2013-01-30 to 2013-03-04: left out"
    assert relevant(news(late, late, None), DAY).items == []


def test_undated_headlines_are_kept() -> None:
    feed = news(None, None)
    assert relevant(feed, DAY) == feed
    assert relevant(news(DAY, None), DAY).note == ""
