"""What stands beside a refitted child's weights: report, picture, card."""

from __future__ import annotations

from pathlib import Path

import yaml
from matplotlib.ticker import MaxNLocator

from mergekit_darwin.errors import quoted, shown
from mergekit_darwin.files import write_whole
from mergekit_darwin.models.manifest import MANIFEST, seal
from mergekit_darwin.plots import CHILD, FATHER, MOTHER, OTHER, figure, plain, save
from mergekit_darwin.refit.report import REPORT, Losses, RefitReport, refit_text

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


def draw_refit(report: RefitReport, file: Path) -> None:
    """Draw drift by layer at both parents' texts, and the losses on all three."""
    made = figure(11.0, 4.2)
    panels = made.subplots(1, 3, width_ratios=[2, 2, 1.5])
    layers = range(len(report.layers))
    sides = (("Father", FATHER), ("Mother", MOTHER))
    for axes, (role, colour) in zip(panels[:2], sides, strict=True):
        key = role.lower()
        before = [getattr(row, f"{key}_before") for row in report.layers]
        after = [getattr(row, f"{key}_after") for row in report.layers]
        axes.plot(layers, before, color=OTHER, linestyle="--", label="before")
        axes.plot(layers, after, color=colour, label="after")
        axes.fill_between(layers, after, before, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"on the {role}'s texts")
        axes.set_xlabel("layer")
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    panels[0].set_ylabel("distance of the stream from that parent's")
    _losses(panels[2], report)
    made.suptitle(plain(f"refit of {Path(report.models['child'].model).name}"))
    save(made, file)


def _losses(axes, report: RefitReport) -> None:  # type: ignore[no-untyped-def]
    groups: list[tuple[str, Losses]] = [
        ("Father's\ntexts", report.father_texts),
        ("Mother's\ntexts", report.mother_texts),
        ("general\ntext", report.general),
    ]
    bars = (
        ("father", FATHER, "Father"),
        ("mother", MOTHER, "Mother"),
        ("before", OTHER, "child before"),
        ("after", CHILD, "child after"),
    )
    for place, (key, colour, name) in enumerate(bars):
        heights = [getattr(losses, key) for _, losses in groups]
        at = [i + (place - 1.5) * 0.2 for i in range(len(groups))]
        axes.bar(at, heights, 0.19, color=colour, label=name)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_title("loss, nats a token")
    axes.legend(frameon=False, fontsize=8)
