"""The comparison of a pair as a Markdown table, from the scores that were measured."""

import math
from pathlib import Path

from pair_items import PAIRS, read_jsonl

Score = tuple[float, float]
"""(mean, standard error of the mean)."""
GENERAL = "general"


def known_scores(out: Path) -> dict[Path, dict[str, Score]]:
    """Return all scores of out/scores.jsonl, by model."""
    found: dict[Path, dict[str, Score]] = {}
    file = out / "scores.jsonl"
    for record in read_jsonl(file) if file.exists() else []:
        found.setdefault((out / record["model"]).resolve(), {}).update(record["scores"])
    return found


def table(out: Path, name: str) -> str:
    """Return base, parents and every merge of a pair that has been scored.

    The mean is over the pair's skills, general text in nats a token (lower is better);
    "-" was not measured.
    """
    pair = PAIRS[name]
    found = known_scores(out)
    models = out / "models"
    rows = {
        "base": models / "base",
        f"Father ({pair.father})": models / pair.father,
        f"Mother ({pair.mother})": models / pair.mother,
    }
    merged = sorted((out / "merged" / name).iterdir(), key=_order)
    rows |= {x.name.replace("_", " "): x for x in merged}
    head = ["model", *pair.skills, "mean", "general text"]
    lines = [_line(head), _line(["---"] * len(head))]
    for label, folder in rows.items():
        scores = found.get(folder.resolve(), {})
        skills = [scores.get(skill) for skill in pair.skills]
        if any(skills):
            cells = [*skills, _mean(skills), scores.get(GENERAL)]
            lines.append(_line([label, *map(_cell, cells)]))
    return "\n".join(lines)


def _order(folder: Path) -> tuple[int, str]:
    """Sort merges as a reader compares them: plain ones first, refit last."""
    kinds = ("linear", "slerp", "dare", "task", "grid", "evolve", "refit")
    places = [i for i, kind in enumerate(kinds) if folder.name.startswith(kind)]
    return (places[0] if places else len(kinds)), folder.name


def _cell(score: Score | None) -> str:
    return f"{score[0]:.3f} ± {score[1]:.3f}" if score else "-"


def _mean(scores: list[Score | None]) -> Score | None:
    """Return the mean of independent scores and its error; None if one is lacking."""
    known = [score for score in scores if score]
    if len(known) < len(scores):
        return None
    error = math.sqrt(sum(e**2 for _, e in known)) / len(known)
    return sum(m for m, _ in known) / len(known), error


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
