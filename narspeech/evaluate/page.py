"""The report as one HTML file that needs nothing else: figures, breakdown, and every error beside what was said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from narspeech.evaluate.alignment import Edit
from narspeech.evaluate.breakdown import Breakdown, group_rows
from narspeech.evaluate.scores import Corpus
from narspeech.page import document, safe, table

# Utterances shown at most: a browser must still open the page.
SHOWN = 2000
_TOP = 25

_STYLE = """
:root { --sub: #8a4b00; --sub-paper: #fff0d6; --del: #a3122a; --del-paper: #ffe3e6;
  --ins: #0b6134; --ins-paper: #dcf5e5; }
@media (prefers-color-scheme: dark) { :root { --sub: #ffc46b; --sub-paper: #3b2a0d;
  --del: #ff9aa5; --del-paper: #421820; --ins: #83dfa6; --ins-paper: #12351f; } }
.id { color: var(--faint); overflow-wrap: anywhere; }
.tables { display: flex; flex-wrap: wrap; gap: 2rem; }
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
    notes = "".join(f"<p><code>{safe(line)}</code></p>" for line in subtitle)
    groups = [] if breakdown.speakers is None else [("By speaker", group_rows("speaker", breakdown.speakers))]
    groups.append(("By words in the reference", group_rows("words", breakdown.lengths)))
    sections = "".join(f"<h2>{name}</h2><div class=scroll>{table(rows)}</div>" for name, rows in groups)
    body = (
        f"<h1>{safe(title)}</h1>{notes}{table(corpus.total().rows())}\n{sections}\n"
        f"<h2>Most frequent errors</h2><div class=tables>{_confusions(breakdown)}</div>\n{_errors(corpus)}"
    )
    return document(title, body, style=_STYLE)


def _confusions(breakdown: Breakdown) -> str:
    found = breakdown.confusions.to_dict(_TOP)
    pairs = [(each["reference"], each["hypothesis"], str(each["count"])) for each in found["substitutions"]]
    tables = [table([("said", "heard instead", "times"), *pairs])]
    for name, heading in (("deletions", "not heard"), ("insertions", "not said")):
        words = [(each["word"], str(each["count"])) for each in found[name]]
        tables.append(table([(heading, "times"), *words]))
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
            f"<article><p class=id>{safe(corpus.ids[row])} &middot; S {substitutions}, D {deletions}, "
            f"I {insertions} of {words}</p><p>{' '.join(map(_edit, edits))}</p></article>\n"
        )
    return "".join(parts)


def _edit(edit: Edit) -> str:
    before, after = (None if word is None else safe(word) for word in edit)
    if before is None:
        return f"<ins>{after}</ins>"
    if after is None:
        return f"<del>{before}</del>"
    return before if before == after else f"<span class=sub><del>{before}</del> {after}</span>"
