"""Refits of a pair's child: skills against general text, by variant.

    python benchmarks/refit_front.py OUT PAIR CHILD [MAPS:KEEP_WEIGHT ...]
    python benchmarks/refit_front.py --draw FRONT.jsonl FRONT.png

OUT, PAIR and CHILD as benchmarks/real_pairs.py made them (`OUT meet linear_0.5`). Each
variant is refitted on 300 training items a skill, written beside CHILD and scored.
"""

import json
import sys
from pathlib import Path

from pair_items import read_jsonl, write_jsonl
from pair_merges import PAIRS
from pair_scores import score_folders

import mergekit_darwin as md
from mergekit_darwin.plots import CHILD, FATHER, MOTHER, OTHER, figure, save

ITEMS = 300
VARIANTS = ("last:10",)
COLOURS = {
    "last map": FATHER,
    "all maps": MOTHER,
    "last map, absolute": "#8fb5d9",
    "all maps, absolute": "#e8a48a",
}


def probes_of(out: Path, skills: tuple[str, ...]) -> Path:
    """Write the training items of the skills as a folder of probes; return it."""
    folder = out / "probes" / ("refit_" + "_".join(skills))
    folder.mkdir(parents=True, exist_ok=True)
    for skill in skills:
        items = read_jsonl(out / "items" / skill / "refit.jsonl")[:ITEMS]
        write_jsonl(folder / f"{skill}.jsonl", items)
    return folder


def refit(out: Path, name: str, child: str, variant: str) -> Path:
    """Refit a merged child of a pair as a variant says; return its folder."""
    pair, merged = PAIRS[name], out / "merged" / name
    maps, weight = variant.split(":")
    folder = merged / f"refit_{child}_{maps}_{weight}"
    if not folder.exists():
        md.refit_child(
            str(merged / child),
            str(out / "models" / pair.father),
            str(out / "models" / pair.mother),
            out=folder,
            probes=probes_of(out, pair.skills),
            maps=maps,
            keep_weight=float(weight),
            max_tokens=160,
            progress=True,
        )
    return folder


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Draw each refit: the smaller share of a parent's skill against general text."""
    models = {row["name"]: row for row in rows if "kind" not in row}
    father, mother = models["father"], models["mother"]
    worse = max(father["general"], mother["general"])
    made = figure(7.5, 4.8)
    axes = made.subplots()

    def kept(row: dict[str, float]) -> float:
        return min(row["a"] / father["a"], row["b"] / mother["b"])

    for kind, colour in COLOURS.items():
        mine = [row for row in rows if row.get("kind") == kind]
        mine.sort(key=lambda row: row["keep"])
        across = [row["general"] for row in mine]
        axes.plot(across, [kept(row) for row in mine], "o-", color=colour, label=kind)
        for row in mine:
            at = (row["general"], kept(row))
            axes.annotate(
                f"{row['keep']:g}", at, (4, 5), textcoords="offset points", fontsize=8
            )
    mean = models["mean"]
    axes.plot(mean["general"], kept(mean), "s", color=CHILD, label="mean, not refitted")
    axes.axvline(worse, color=OTHER, linewidth=1, label="worse parent, and 2 % above")
    axes.axvline(1.02 * worse, color=OTHER, linewidth=1, linestyle=":")
    axes.set(ylim=(0, 1.15), xlabel="loss on held-out general text, nats a token")
    axes.set_ylabel("share of its parent's score, worse skill")
    axes.set_title("refit where both parents changed the same circuits")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    save(made, file)


def main() -> None:
    """Read the command line and do one step."""
    if sys.argv[1] == "--draw":
        draw(read_jsonl(Path(sys.argv[2])), Path(sys.argv[3]))
        return
    out, (name, child, *variants) = Path(sys.argv[1]), sys.argv[2:]
    for variant in variants or VARIANTS:
        folder = refit(out, name, child, variant)
        report = json.loads((folder / "refit.json").read_text(encoding="utf-8"))
        print(variant, report["general"], f"{report['seconds']:.0f} s", flush=True)
        score_folders(out, [folder], list(PAIRS[name].skills))


if __name__ == "__main__":
    main()
