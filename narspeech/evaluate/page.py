"""The report as one HTML file that needs nothing else: figures, breakdown, and every error beside what was said."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from narspeech.evaluate.alignment import Edit
from narspeech.evaluate.breakdown import Breakdown, group_rows
from narspeech.evaluate.scores import Corpus

# Utterances shown at most: a browser must still open the page.
SHOWN = 2000
_TOP = 25

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #667080; --line: #d5dae1;
  --sub: #8a4b00; --sub-paper: #fff0d6; --del: #a3122a; --del-paper: #ffe3e6; --ins: #0b6134; --ins-paper: #dcf5e5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --paper: #14181d; --faint: #98a3b3; --line: #333b46;
  --sub: #ffc46b; --sub-paper: #3b2a0d; --del: #ff9aa5; --del-paper: #421820; --ins: #83dfa6; --ins-paper: #12351f; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
code, .id { color: var(--faint); overflow-wrap: anywhere; }
.tables { display: flex; flex-wrap: wrap; gap: 2rem; }
.scroll { overflow-x: auto; }
article { border-top: 1px solid var(--line); padding: .5rem 0; }
article p { margin: .2rem 0; }
.sub, del, ins { border-radius: .25rem; padding: 0 .25rem; }
.sub { color: var(--sub); background: var(--sub-paper); white-space: nowrap; }
del { color: var(--del); background: var(--del-paper); }
.sub del { color: inherit; background: none; padding: 0; }
ins { color: var(--ins); background: var(--ins-paper); text-decoration: none; }
ins::before { content: "+"; }
"""


def page(title: str, subtitle: Sequence[str], corpus: Corpus, breakdown: Breakdown) -> str:
    """The whole page; `subtitle` are lines under the heading, the signature among them. All text is escaped."""
    notes = "".join(f"<p><code>{_safe(line)}</code></p>" for line in subtitle)
    groups = [] if breakdown.speakers is None else [("By speaker", group_rows("speaker", breakdown.speakers))]
    groups.append(("By words in the reference", group_rows("words", breakdown.lengths)))
    sections = "".join(f"<h2>{name}</h2><div class=scroll>{_table(rows)}</div>" for name, rows in groups)
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_safe(title)}</h1>{notes}{_table(corpus.total().rows())}\n{sections}\n"
        f"<h2>Most frequent errors</h2><div class=tables>{_confusions(breakdown)}</div>\n"
        f"{_errors(corpus)}</body></html>\n"
    )


def _confusions(breakdown: Breakdown) -> str:
    found = breakdown.confusions.to_dict(_TOP)
    pairs = [(each["reference"], each["hypothesis"], str(each["count"])) for each in found["substitutions"]]
    tables = [_table([("said", "heard instead", "times"), *pairs])]
    for name, heading in (("deletions", "not heard"), ("insertions", "not said")):
        words = [(each["word"], str(each["count"])) for each in found[name]]
        tables.append(_table([(heading, "times"), *words]))
    return "".join(tables)


def _errors(corpus: Corpus) -> str:
    """Utterances with errors, the worst first; the others are as they should be."""
    wrong = np.flatnonzero(corpus.errors)
    rows = wrong[np.argsort(-corpus.errors[wrong], kind="stable")][:SHOWN].tolist()
    shown = f"the {len(rows)} with the most of {len(wrong)}" if len(rows) < len(wrong) else str(len(wrong))
    parts = [
        f"<h2>Utterances with errors ({shown} of {len(corpus)})</h2>",
        "<p><span class=sub><del>said</del> heard</span> <del>not heard</del> <ins>not said</ins></p>",
    ]
    for row, edits in zip(rows, corpus.aligned(rows), strict=True):
        substitutions, deletions, insertions, words = corpus.words[row].tolist()
        parts.append(
            f"<article><p class=id>{_safe(corpus.ids[row])} &middot; S {substitutions}, D {deletions}, "
            f"I {insertions} of {words}</p><p>{' '.join(map(_edit, edits))}</p></article>\n"
        )
    return "".join(parts)


def _edit(edit: Edit) -> str:
    before, after = (None if word is None else _safe(word) for word in edit)
    if before is None:
        return f"<ins>{after}</ins>"
    if after is None:
        return f"<del>{before}</del>"
    return before if before == after else f"<span class=sub><del>{before}</del> {after}</span>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _safe(text: str) -> str:
    return escape(text)
