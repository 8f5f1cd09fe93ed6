"""What stands beside a refitted child's weights: report, picture, card."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from mergekit_darwin.errors import quoted
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.manifest import MANIFEST, seal
from mergekit_darwin.refit.picture import draw_refit
from mergekit_darwin.refit.report import REPORT, RefitReport, refit_text

CARD = "README.md"


def write_beside(report: RefitReport, folder: Path, name: str) -> None:
    """Write refit.json, refit.png, the card, titled name, and the tensors' digests."""
    write_whole(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    draw_refit(report, folder / "refit.png")
    write_whole(folder / CARD, card(report, name))
    seal(folder)


def card(report: RefitReport, name: str) -> str:
    """Return the model card: from what, on which texts, what changed, how to repeat."""
    names = {role: shown(row.model) for role, row in report.models.items()}
    said = {role: quoted(name) for role, name in names.items()}
    used = [row.model for row in report.models.values()]
    hub = [model for model in used if not Path(model).exists()]
    head = {
        "library_name": "transformers",
        "tags": ["mergekit", "merge", "mergekit-darwin"],
        **({"base_model": hub} if hub else {}),
        "mergekit_darwin": {
            "refit": {
                role: {"model": names[role], "digest": row.digest}
                for role, row in report.models.items()
            }
        },
    }
    texts = [
        f"| {role} | {used.tokens} |"
        f" {', '.join(f'{quoted(n)} `{d}`' for n, d in used.probes.items())} |"
        for role, used in report.texts.items()
    ]
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    tools = ", ".join(f"{tool} {version}" for tool, version in report.tool.items())
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {quoted(name)}",
        f"{said['child']}, refitted with mergekit-darwin: its linear maps were solved"
        f" anew so that its layers do what {said['father']} and {said['mother']} do"
        " on texts of their skills, and what it did itself on general text.",
        "## What changed\n\n```\n" + refit_text(report) + "```",
        "![drift by layer](refit.png)",
        "## Texts\n\n| for | tokens | probes and their digests |\n"
        "| --- | ---: | --- |\n" + "\n".join(texts),
        f"## Settings\n\n{settings}.\n\nMade with {tools}. `{REPORT}` has all numbers,"
        f" `{MANIFEST}` the SHA-256 of every tensor.",
    ]
    return "\n\n".join(parts) + "\n"


def shown(model: str) -> str:
    """Return a model as a card should name it: a path by its last two parts."""
    if not os.path.isabs(model):
        return model
    return "/".join(Path(model).parts[-2:])
