"""Children of a pair refitted to their parents, by the command's own code."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pair_items import PAIRS, read_jsonl, write_jsonl

import mergekit_darwin as md

MAX_TOKENS = 160


@dataclass(frozen=True)
class Texts:
    """Which training items a skill a refit reads: `count` from `first` on."""

    count: int = 300
    first: int = 0


def refit(out: Path, name: str, child: str, texts: Texts) -> Path:
    """Write the refit of merged/NAME/CHILD beside it; return its folder.

    General text is every second one of the package (15,222 tokens).
    """
    pair, merged = PAIRS[name], out / "merged" / name
    label = f"_{texts.count}_from_{texts.first}" if texts != Texts() else ""
    folder = merged / f"refit_{child}{label}"
    if folder.exists():
        return folder
    report = md.refit_child(
        str(merged / child),
        str(out / "models" / pair.father),
        str(out / "models" / pair.mother),
        out=folder,
        probes=_probes(out, pair.skills, texts),
        keep_texts=_half_of_package(out),
        max_tokens=MAX_TOKENS,
    )
    print(f"{name} {folder.name}: {report.seconds:.0f} s", flush=True)
    return folder


def _probes(out: Path, skills: tuple[str, ...], texts: Texts) -> Path:
    """Return a folder with the training items that are read, a file a skill."""
    label = f"{'_'.join(skills)}_{texts.count}_from_{texts.first}"
    folder = out / "probes" / label
    last = texts.first + texts.count
    for skill in skills:
        items = read_jsonl(out / "items" / skill / "refit.jsonl")
        if len(items) < last:
            raise SystemExit(f"{skill} has {len(items)} texts to refit on, not {last}.")
        write_jsonl(folder / f"{skill}.jsonl", items[texts.first : last])
    return folder


def _half_of_package(out: Path) -> Path:
    """Return a folder with every second general text of the package."""
    folder = out / "keep"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (resources.files("mergekit_darwin") / "data" / "keep").iterdir():
        lines = file.read_text(encoding="utf-8").splitlines()[::2]
        (folder / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
