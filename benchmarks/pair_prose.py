"""Held-out general texts that no parent is trained on: English, code, German, Korean.

English is the Python reference manual as pydoc carries it, code is the standard
library's (both of the running Python, PSF licence); German and Korean were written for
this benchmark. `refit` must not be given any of them as keep texts.
"""

import importlib.util
from pathlib import Path
from pydoc_data.topics import topics

MODULES = (
    "fractions statistics shlex textwrap heapq sched cmd queue bisect colorsys "
    "graphlib zipapp"
).split()
EACH = 30
LONGEST = 700  # characters, of English and of code


def english() -> list[str]:
    """Return paragraphs of the Python reference, at most one from a topic."""
    found: dict[str, None] = {}  # several topics share their text
    for name in sorted(topics):
        paragraphs = (" ".join(x.split()) for x in topics[name].split("\n\n"))
        fit = [x for x in paragraphs if 300 <= len(x) <= LONGEST and x[0].isupper()]
        found |= dict.fromkeys(fit[:1])
    return list(found)[:: max(1, len(found) // EACH)][:EACH]


def code() -> list[str]:
    """Return excerpts of the standard library that start at a definition."""
    found = []
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise SystemExit(f"This Python has no {name}.")
        source = Path(spec.origin).read_text(encoding="utf-8")
        parts = ("\ndef " + x for x in source.split("\ndef ")[1:])
        found += [x.strip()[:LONGEST] for x in parts if len(x) > 300][:4]
    return found[:EACH]


def written(language: str) -> list[str]:
    """Return the texts that were written for this benchmark, one a line."""
    path = Path(__file__).parent / "pair_texts" / f"{language}.txt"
    return path.read_text(encoding="utf-8").splitlines()


def prose() -> list[dict[str, str]]:
    """Return the held-out texts as {"language", "text"}."""
    texts = {
        "english": english(),
        "code": code(),
        "german": written("german"),
        "korean": written("korean"),
    }
    return [{"language": name, "text": x} for name in texts for x in texts[name]]
