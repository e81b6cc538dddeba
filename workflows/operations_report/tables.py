"""From bytes to lines of orders: encodings, delimiters, headers in English and Chinese, dirty cells.

Nothing is guessed silently: what was left out is counted in notes, and what cannot be read is a
`SourceError` that says what was seen.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from types import MappingProxyType

from flowkit.workflows.operations_report.values import Line

BYTES_MAX = 64_000_000
ROWS_MAX = 500_000
LEFT_OUT_SHARE = 0.2
"""More unreadable rows than this, and the table is refused: totals of the rest would mislead."""


class SourceError(Exception):
    """A source gave no usable orders; the message says which and why."""


COLUMNS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "order": ("order_id", "order id", "order no", "order number", "order", "订单号", "订单编号", "订单id"),
        "day": (
            "order_date", "date", "ordered_at", "created_at", "order time", "paid_at", "day",
            "下单时间", "下单日期", "订单日期", "日期", "支付时间", "付款时间",
        ),
        "customer": (
            "customer_id", "customer", "buyer_id", "buyer", "user_id", "member_id",
            "客户id", "客户", "客户编号", "买家id", "买家", "会员id", "用户id",
        ),
        "amount": (
            "amount", "total", "order_amount", "line_amount", "gmv", "sales", "price",
            "金额", "订单金额", "实付金额", "成交金额", "销售额",
        ),
        "state": ("status", "order_status", "state", "订单状态", "状态"),
        "brand": ("brand", "brand_name", "shop", "store", "品牌", "品牌名称", "店铺"),
        "channel": ("channel", "sales_channel", "platform", "渠道", "销售渠道", "平台"),
        "category": ("category", "product_category", "product", "品类", "类目", "商品类目", "商品"),
    }
)  # fmt: skip
"""Names that a column may have, in any case, with spaces or underscores."""

NEEDED = ("order", "day", "customer", "amount")

_CANCELLED = ("cancel", "void", "取消", "关闭")
_REFUNDED = ("refund", "return", "chargeback", "退款", "退货")


# ---- bytes


def decoded(data: bytes) -> tuple[str, str]:
    """The text, and the encoding by which it was read: a byte order mark, UTF-8, UTF-16, GB18030.

    Raises:
        SourceError: none of them fits, or it is no table but a page or another kind of file.
    """
    if not data.strip():
        raise SourceError("the file is empty")
    text, encoding = _decoded(data)
    start = text[:2000].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<head", "<body")):
        raise SourceError(f"it is a web page, no table{_page_title(text)}")
    if start.startswith(("{", "[")):
        raise SourceError(f"it is JSON, no table: {' '.join(text[:120].split())}")
    if data.startswith((b"PK\x03\x04", b"%PDF", b"\xd0\xcf\x11\xe0", b"SQLite format")):
        raise SourceError("it is a workbook, a PDF or a database, no CSV: export the sheet as CSV")
    return text, encoding


def _decoded(data: bytes) -> tuple[str, str]:
    marks = (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    )
    for mark, encoding in marks:
        if data.startswith(mark):
            return _strictly(data, (encoding,))
    sample = data[:4000]
    if (
        sample.count(0) > len(sample) // 5
    ):  # UTF-16 without a mark: which halves are zero says which
        little = sample[1::2].count(0) >= sample[::2].count(0)
        return _strictly(data, ("utf-16-le" if little else "utf-16-be",))
    return _strictly(data, ("utf-8", "gb18030"))


def _strictly(data: bytes, encodings: Sequence[str]) -> tuple[str, str]:
    for encoding in encodings:
        try:
            return data.decode(encoding), encoding
        except UnicodeError:
            continue
    raise SourceError(f"its bytes are not {' nor '.join(encodings)}: save it as UTF-8")


def _page_title(text: str) -> str:
    found = re.search(r"<title[^>]*>(.*?)</title>", text[:20_000], re.IGNORECASE | re.DOTALL)
    return f" ({' '.join(found[1].split())[:80]!r})" if found else ""


def cells_of(text: str) -> list[list[str]]:
    """The rows of a CSV, whose delimiter is what its header has most of.

    Raises:
        SourceError: it cannot be read as CSV.
    """
    header = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t|，", key=header.count)
    try:
        rows = [
            row
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if any(row)
        ]
    except csv.Error as error:
        raise SourceError(f"it is no CSV: {error}") from error
    return rows


# ---- rows


def lines_of(rows: Iterable[Sequence[object]]) -> tuple[list[Line], list[tuple[str, str]]]:
    """The lines of a table whose first row names its columns, and what was done to it.

    A row that says the very same as one before is counted once. An order's amount is the sum of its
    lines; a negative amount is a refund's.

    Raises:
        SourceError: columns are missing, there are no rows, or too many cannot be read.
    """
    table = list(rows)
    if not table:
        raise SourceError("the table is empty")
    header = [str(cell or "").strip() for cell in table[0]]
    places = columns_of(header)
    if len(table) == 1:
        raise SourceError("the table has a header and no rows")
    if len(table) - 1 > ROWS_MAX:
        raise SourceError(f"{len(table) - 1:,} rows, more than {ROWS_MAX:,}: export fewer months")
    troubles: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    found: list[Line] = []
    for row in table[1:]:
        cells = tuple("" if cell is None else str(cell).strip() for cell in row)
        if not any(cells):
            continue
        if cells in seen:
            troubles["duplicates"] += 1
            continue
        seen.add(cells)
        line = _line({key: cells[at] if at < len(cells) else "" for key, at in places.items()})
        if isinstance(line, Line):
            found.append(line)
        else:
            troubles[line] += 1
    return found, _notes(found, troubles, places)


def columns_of(header: Sequence[str]) -> dict[str, int]:
    """Which column is what; raises `SourceError` for those that are missing."""
    named = {_plain(name): at for at, name in reversed(list(enumerate(header)))}
    found = {
        key: named[_plain(name)]
        for key, names in COLUMNS.items()
        for name in reversed(names)
        if _plain(name) in named
    }
    if missing := [key for key in NEEDED if key not in found]:
        wanted = "; ".join(f"{key} (such as {COLUMNS[key][0]})" for key in missing)
        has = ", ".join(header[:20]) or "nothing"
        raise SourceError(f"no column for {wanted}; the header has: {has[:300]}")
    return found


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold().replace("\ufeff", "")
    return re.sub(r"[\s_\-.]+", "", folded)


def _line(cells: Mapping[str, str]) -> Line | str:
    """The line, or what is wrong with it."""
    day, cents = day_of(cells["day"]), cents_of(cells["amount"])
    if day is None:
        return "dates"
    if cents is None:
        return "amounts"
    if not cells["order"] or not cells["customer"]:
        return "ids"
    said = cells.get("state", "").casefold()
    state = "refunded" if cents < 0 or any(word in said for word in _REFUNDED) else "kept"
    if any(word in said for word in _CANCELLED):
        state = "cancelled"
    return Line.model_validate(
        {
            "order": cells["order"],
            "customer": cells["customer"],
            "day": day,
            "cents": abs(cents),
            "state": state,
            **{key: cells.get(key, "")[:100] for key in ("brand", "channel", "category")},
        }
    )


_DAY = re.compile(
    r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})\s*日?(?:[T\s]\s*\d.*)?|(\d{4})(\d\d)(\d\d)"
)


def day_of(text: str) -> dt.date | None:
    """A day such as 2026-03-01, 2026/3/1 10:22, 2026年3月1日, 20260301; the year comes first."""
    found = _DAY.fullmatch(unicodedata.normalize("NFKC", text).strip())
    if found is None:
        return None
    year, month, day = (int(part) for part in found.groups() if part is not None)
    try:
        return dt.date(year, month, day)
    except ValueError:
        return None


_AMOUNT = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")


def cents_of(text: str) -> int | None:
    """Hundredths of an amount such as 1,234.50, ¥99, 99元 or 1e3, rounded half to even."""
    plain = unicodedata.normalize("NFKC", text)
    plain = re.sub(r"[¥$€£元\s]|CNY|RMB|USD|EUR", "", plain, flags=re.IGNORECASE)
    bare = plain.replace(",", "") if _AMOUNT.fullmatch(plain) else plain
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value) > 10**12:
        return None
    return int((value * 100).to_integral_value())


def _notes(
    found: Sequence[Line], troubles: Mapping[str, int], places: Mapping[str, int]
) -> list[tuple[str, str]]:
    unread = sum(count for why, count in troubles.items() if why != "duplicates")
    if not found or unread > LEFT_OUT_SHARE * (len(found) + unread):
        why = ", ".join(
            f"{count} {what}" for what, count in troubles.items() if what != "duplicates"
        )
        raise SourceError(
            f"{unread} of {len(found) + unread} rows cannot be read ({why or 'no cells'}): "
            "dates begin with the year, amounts are numbers, ids are not empty"
        )
    notes = [(why, str(count)) for why, count in sorted(troubles.items()) if count]
    return notes + [("without_" + key, "") for key in ("brand", "state") if key not in places]
