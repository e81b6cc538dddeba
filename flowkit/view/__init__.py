"""How graphs and runs are shown to people: text and SVG, without a terminal or a server."""
