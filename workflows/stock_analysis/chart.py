"""The interactive chart: candles with two means, volume, MACD and RSI.

The figure is plain data in Plotly's schema. The four panels share one x axis, so that they move
together and one hover box tells a day's values in all of them.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Sequence
from typing import Any, Final

from flowkit.workflows.stock_analysis.values import Bar, Indicators, Prices

UP, DOWN = "#12946f", "#d64f4a"
SHORT, LONG, STRENGTH = "#d98e04", "#4a72d6", "#a855b8"
_GRID: Final = "rgba(128,136,150,0.18)"
_INK: Final = "#5f6b7a"
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

_PANELS: Final = {
    "y": (0.545, 1.0),
    "y2": (0.385, 0.495),
    "y3": (0.185, 0.335),
    "y4": (0.0, 0.135),
}
"""Height of each panel as a share of the plot: price, volume, MACD, RSI."""

_CONFIG: Final = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["lasso2d", "select2d"],
    # Plotly offers to upload the chart to its makers' cloud: not from a report that is passed on.
    "showSendToCloud": False,
    "plotlyServerURL": "",
}

_INK_BY_SCHEME: Final = """
const plot = document.getElementById('{plot_id}');
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const paint = () => Plotly.relayout(plot, {
  'font.color': dark.matches ? '#aab4c2' : '#4b5563',
  'hoverlabel.bgcolor': dark.matches ? '#1f2630' : '#ffffff',
  'hoverlabel.font.color': dark.matches ? '#e6eaf0' : '#1f2937',
});
dark.addEventListener('change', paint);
new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot.parentElement);
paint();
"""

Figure = dict[str, Any]


def figure(prices: Prices, measured: Indicators) -> Figure:
    """The chart of the shown days, as Plotly's `data` and `layout`."""
    points = measured.points
    bars = prices.bars[-len(points) :]
    days = [bar.date.isoformat() for bar in bars]
    heights = [point.macd_histogram for point in points]
    data = [
        _candles(days, bars),
        _line(days, [point.sma_20 for point in points], "SMA 20", SHORT, "y"),
        _line(days, [point.sma_50 for point in points], "SMA 50", LONG, "y"),
        _columns(days, [bar.volume for bar in bars], "Volume", "y2", [_side(bar) for bar in bars]),
        _columns(days, heights, "Histogram", "y3", [UP if each >= 0 else DOWN for each in heights]),
        _line(days, [point.macd for point in points], "MACD", LONG, "y3"),
        _line(days, [point.macd_signal for point in points], "Signal", SHORT, "y3"),
        _line(days, [point.rsi_14 for point in points], "RSI", STRENGTH, "y4"),
    ]
    return {"data": data, "layout": _layout(bars, prices.currency)}


def fragment(fig: Figure, *, script: bool) -> str:
    """The figure as HTML to put into a page; `script`: with Plotly's own code, about 4.8 MB."""
    plotly: Any = importlib.import_module("plotly.io")
    html: str = plotly.to_html(
        fig,
        config=_CONFIG,
        include_plotlyjs=script,
        full_html=False,
        div_id="chart",
        post_script=_INK_BY_SCHEME,
        validate=False,
    )
    return html


def _candles(days: Sequence[str], bars: Sequence[Bar]) -> Figure:
    return {
        "type": "candlestick",
        "name": "Price",
        "x": days,
        "open": [bar.open for bar in bars],
        "high": [bar.high for bar in bars],
        "low": [bar.low for bar in bars],
        "close": [bar.close for bar in bars],
        "increasing": {"line": {"color": UP, "width": 1.2}, "fillcolor": UP},
        "decreasing": {"line": {"color": DOWN, "width": 1.2}, "fillcolor": DOWN},
        "yaxis": "y",
    }


def _line(
    days: Sequence[str], values: Sequence[float | None], name: str, colour: str, axis: str
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": days,
        "y": values,
        "line": {"color": colour, "width": 1.6},
        "hovertemplate": "%{y:,.2f}",
        "yaxis": axis,
    }


def _columns(
    days: Sequence[str], values: Sequence[float], name: str, axis: str, colours: Sequence[str]
) -> Figure:
    return {
        "type": "bar",
        "name": name,
        "x": days,
        "y": values,
        "marker": {"color": colours, "opacity": 0.55},
        "hovertemplate": "%{y:,.3s}" if name == "Volume" else "%{y:,.2f}",
        "yaxis": axis,
    }


def _side(bar: Bar) -> str:
    return UP if bar.close >= bar.open else DOWN


def _layout(bars: Sequence[Bar], currency: str) -> Figure:
    edge = dt.timedelta(hours=18)
    first, last = (dt.datetime.combine(bar.date, dt.time()) for bar in (bars[0], bars[-1]))
    return {
        "margin": {"l": 8, "r": 52, "t": 26, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 12, "color": _INK},
        "showlegend": False,
        "hovermode": "x unified",
        "dragmode": "pan",
        "bargap": 0.25,
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": "rgba(128,136,150,0.6)",
            "activecolor": LONG,
        },
        "xaxis": {
            "type": "date",
            "anchor": "y4",
            "gridcolor": _GRID,
            "range": [(first - edge).isoformat(), (last + edge).isoformat()],
            "rangebreaks": [{"values": [day.isoformat() for day in _closed_days(bars)]}],
            "rangeslider": {"visible": False},
            "hoverformat": "%a %d %b %Y",
            "showspikes": True,
            "spikemode": "across",
            "spikethickness": 1,
            "spikedash": "dot",
            "spikecolor": _INK,
        },
        "yaxis": _axis("y"),
        "yaxis2": {**_axis("y2"), "nticks": 3},
        "yaxis3": {**_axis("y3"), "nticks": 5},
        "yaxis4": {**_axis("y4"), "range": [0, 100], "tickvals": [30, 50, 70]},
        "shapes": _band(),
        "annotations": _captions(currency),
    }


def _axis(name: str) -> Figure:
    return {
        "domain": list(_PANELS[name]),
        "side": "right",
        "gridcolor": _GRID,
        "zeroline": False,
        "anchor": "x",
    }


def _band() -> list[Figure]:
    """RSI between 30 and 70, where it is not stretched."""
    place: Figure = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y4", "layer": "below"}
    dotted = {"color": STRENGTH, "width": 1, "dash": "dot"}
    return [
        {"type": "rect", "y0": 30, "y1": 70, "fillcolor": STRENGTH, "opacity": 0.07, **place}
        | {"line": {"width": 0}},
        {"type": "line", "y0": 30, "y1": 30, "line": dotted, **place},
        {"type": "line", "y0": 70, "y1": 70, "line": dotted, **place},
    ]


def _captions(currency: str) -> list[Figure]:
    """Each panel's caption in its lines' colours, in place of a legend far away."""
    price = f"Price ({currency})" if currency.isalpha() and len(currency) <= 4 else "Price"
    panels: list[tuple[str, list[tuple[str, str]]]] = [
        ("y", [(price, ""), ("SMA 20", SHORT), ("SMA 50", LONG)]),
        ("y2", [("Volume", "")]),
        ("y3", [("MACD (12, 26)", LONG), ("Signal (9)", SHORT), ("Histogram", "")]),
        ("y4", [("RSI (14)", STRENGTH)]),
    ]
    return [
        {
            "text": "  ".join(_coloured(name, colour) for name, colour in parts),
            "x": 0,
            "y": _PANELS[panel][1],
            "xref": "paper",
            "yref": "paper",
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
        }
        for panel, parts in panels
    ]


def _coloured(name: str, colour: str) -> str:
    """Without a colour of its own a caption takes the page's, light or dark."""
    return f'<b style="color:{colour}">{name}</b>' if colour else f"<b>{name}</b>"


def _closed_days(bars: Sequence[Bar]) -> list[dt.date]:
    """Days between the first and the last without trading: weekends and holidays."""
    open_days = {bar.date for bar in bars}
    span = (bars[-1].date - bars[0].date).days
    every = (bars[0].date + dt.timedelta(days=offset) for offset in range(span))
    return [day for day in every if day not in open_days]
