"""Tables of orders as they come: in any encoding, with other headers, dirty, or none at all."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.workflows.operations_report.tables import (
    SourceError,
    cells_of,
    cents_of,
    day_of,
    decoded,
    lines_of,
)
from flowkit.workflows.operations_report.values import Line

HEADER = "订单号,下单日期,客户ID,品牌,渠道,金额,状态\n"
CHINESE = (
    HEADER
    + '1,2026-03-01,甲,青岚茶,天猫,"1,288.50",已完成\n2,2026/3/2,乙,青岚茶,抖音,88元,已退款\n'
)


def lines(data: bytes) -> list[Line]:
    return lines_of(cells_of(decoded(data)[0]))[0]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
    ],
)
def test_a_table_in_any_encoding_is_the_same_table(encoding: str, said: str) -> None:
    data = CHINESE.encode(encoding)
    assert decoded(data)[1] == said
    first, second = lines(data)
    assert (first.customer, first.brand, first.channel) == ("甲", "青岚茶", "天猫")
    assert (first.cents, first.state, first.day) == (128850, "kept", dt.date(2026, 3, 1))
    assert (second.cents, second.state, second.day) == (8800, "refunded", dt.date(2026, 3, 2))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_seen_by_its_zeros(encoding: str) -> None:
    data = "order_id,date,customer,amount\n1,2026-03-01,a,5\n".encode(encoding)
    assert decoded(data)[1] == encoding
    assert [each.cents for each in lines(data)] == [500]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1, max_size=8),
            st.integers(0, 10**9),
        ),
        min_size=1, max_size=20,
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    st.sampled_from([",", ";", "\t"]),
)  # fmt: skip
def test_what_was_written_is_what_is_read(
    rows: list[tuple[str, int]], encoding: str, delimiter: str
) -> None:
    header = delimiter.join(("订单号", "日期", "客户", "金额"))
    told = [
        delimiter.join((str(number), "2026-03-01", name, f"{cents / 100:.2f}"))
        for number, (name, cents) in enumerate(rows)
    ]
    found = lines("\n".join((header, *told)).encode(encoding))
    assert [(each.customer, each.cents) for each in found] == rows


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"  \n ", "the file is empty"),
        (b"<!DOCTYPE html><title>502 Bad Gateway</title>", "it is a web page, no table.*502 Bad Gateway"),
        (b'{"error": "no such export"}', "it is JSON, no table: .*no such export"),
        (b"PK\x03\x04 a workbook of some kind", "export the sheet as CSV"),
        (b"order_id,date,customer,amount\n", "a header and no rows"),
        (b"order_id,date,amount\n1,2026-03-01,3\n", r"no column for customer \(such as customer_id\)"),
        (b"\xff\xfe\x00", "its bytes are not utf-16"),
        (b"order_id,date,customer,amount\n1,03/01/2026,a,5\n2,2026-03-01,b,5\n", "1 of 2 rows cannot be read .1 dates"),
        (b"order_id,date,customer,amount\n1,2026-03-01,,5\n", "1 of 1 rows cannot be read .1 ids"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_orders_is_refused_with_what_was_seen(data: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        lines(data)


def test_rows_that_say_the_same_are_counted_once_and_told() -> None:
    rows = ["order_id,date,customer,amount", *[f"{n},2026-03-01,a,5" for n in range(9)]]
    rows += ["3,2026-03-01,a,5", "9,2026-03-01,a,much"]
    found, notes = lines_of(cells_of("\n".join(rows)))
    assert len(found) == 9
    assert ("duplicates", "1") in notes
    assert ("amounts", "1") in notes
    assert ("without_brand", "") in notes


@pytest.mark.parametrize(
    ("said", "cents"),
    [
        ("1,234.50", 123450), ("¥99", 9900), ("99元", 9900), ("９９", 9900), ("1e3", 100000), ("-5", -500),
        ("0.005", 0), ("", None), ("much", None), ("nan", None), ("1,23", None), ("1.234,50", None),
    ],
)  # fmt: skip
def test_amounts_in_cents(said: str, cents: int | None) -> None:
    assert cents_of(said) == cents


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("2026-03-09", (2026, 3, 9)), ("2026/3/9 10:22", (2026, 3, 9)), ("2026年3月9日", (2026, 3, 9)),
        ("20260309", (2026, 3, 9)), ("2026-03-09T10:22:01Z", (2026, 3, 9)), ("2026-02-30", None),
        ("03/09/2026", None), ("", None),
    ],
)  # fmt: skip
def test_days_begin_with_the_year(said: str, day: tuple[int, int, int] | None) -> None:
    assert day_of(said) == (dt.date(*day) if day else None)
