"""An HTML page that is one file and needs nothing else: its frame and look, tables, and text that cannot break it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

# Whatever stands in the page, a browser asks nobody for anything.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #667080; --line: #d5dae1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181d; --faint: #98a3b3; --line: #333b46; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
code { color: var(--faint); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
"""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """The whole page around a body of HTML; style and script are added as they are, the title is escaped."""
    code = f"<script>{script}</script>" if script else ""
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{safe(title)}</title><style>{_STYLE}{style}</style></head><body>\n{body}{code}</body></html>\n"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells of plain text, which are escaped; the first row is the head."""
    head = "".join(f"<th scope=col>{safe(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def safe(text: str) -> str:
    """Plain text for an element or a quoted attribute; bytes of a file name that are no UTF-8 become escapes."""
    return escape(text.encode("utf-8", "backslashreplace").decode())


def data_uri(kind: str, data: bytes) -> str:
    """Data inside the page; kind: its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
