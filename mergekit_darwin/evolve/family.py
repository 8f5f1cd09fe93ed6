"""Who a bred model descends from, as its card says; the card's part that says it.

A card is written by whoever made the model. So it is checked as a whole before any of
it counts: no YAML aliases or tags, bounded size and depth, known types, generations
that fit together. What fails is quoted in one line and not followed; nothing in a card
is ever opened, and names are shown as plain text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mergekit_darwin import plots
from mergekit_darwin.errors import DarwinError, quoted, reason, shown
from mergekit_darwin.files import parse_yamls

KEY = "mergekit_darwin"  # of our part of a card's metadata
MOST_GENERATIONS = 8  # that a card lists: a tree doubles with each
_MOST_BYTES = 1 << 18  # of a card's metadata: eight generations need 80,000


class Score(BaseModel):
    """A score on items that the search never saw, and its standard error."""

    model_config = ConfigDict(frozen=True)

    score: FiniteFloat
    stderr: FiniteFloat | None = None


class Member(BaseModel):
    """One model of a family: a child with its parents, or one that was not bred here.

    generation is 0 for a model that was not bred here, else one more than the highest
    of its parents. note says why a card was not followed. Unknown keys of later
    versions are left out.
    """

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, Field(max_length=400)] = ""
    generation: Annotated[int, Field(ge=0, le=999, strict=True)] = 0
    genome_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    heldout: Score | None = None
    father: Member | None = None
    mother: Member | None = None
    note: Annotated[str | None, Field(exclude=True)] = None

    @property
    def parents(self) -> tuple[tuple[str, Member], ...]:
        """The parents that are known, with what they were."""
        both = (("father", self.father), ("mother", self.mother))
        return tuple((role, member) for role, member in both if member is not None)


def family(model: str | Path) -> Member:
    """Return the family of a model on this machine, as its card tells it.

    A model without our card, or with one that is not to be trusted, stands alone; note
    says why. Raises DarwinError if there is no such folder.
    """
    if not Path(model).is_dir():
        raise DarwinError(f"A family is read from a model's folder; {model} is none.")
    return read_member(str(model))


def read_member(model: str) -> Member:
    """Return a model with what its card on this machine says; alone without one."""
    name = shown(model)
    try:
        tree = _tree(Path(model) / "README.md")
        found = Member.model_validate(tree | {"model": name, "note": None})
        _check(found)
    except FileNotFoundError:
        return Member(model=name)
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = _why(error)
        return Member(model=name, note=f"its card is not followed ({why})")
    return found


def _tree(card: Path) -> dict[str, Any]:
    """Return our part of a card's metadata, {} where it has none."""
    text = card.read_text(encoding="utf-8")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    head = text[4 : text.index("\n---", 4)]
    if f"{KEY}" not in head:
        return {}
    if len(head) > _MOST_BYTES:
        raise ValueError(f"its metadata has {len(head)} characters")
    (content,) = parse_yamls(head)  # first: it bounds depth
    for event in yaml.parse(head, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has a YAML alias, {event.anchor!r}")
    found = content.get(KEY, {}) if isinstance(content, dict) else {}
    if not isinstance(found, dict):
        raise ValueError(f"{KEY} holds {quoted(found)}")
    return found


def _check(member: Member) -> None:
    """Refuse generations that do not fit together. Raises ValueError."""
    above = [parent.generation for _, parent in member.parents]
    if above and member.generation != 1 + max(above):
        raise ValueError(
            f"generation {member.generation} of {quoted(member.model)} with parents of"
            f" {' and '.join(str(number) for number in above)}"
        )
    for _, parent in member.parents:
        _check(parent)


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return quoted(reason(error))
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return quoted(f"{place}: {first['msg']}; got {first['input']!r}")


def bred(
    father: str, mother: str, genome_hash: str, heldout: Score | None = None
) -> Member:
    """Return the child of two models: one generation above the higher of them."""
    parents = (read_member(father), read_member(mother))
    return Member(
        generation=1 + max(parent.generation for parent in parents),
        genome_hash=genome_hash,
        heldout=heldout,
        father=parents[0],
        mother=parents[1],
    )


def as_card(member: Member, most: int = MOST_GENERATIONS) -> dict[str, Any]:
    """Return a family as the metadata of a card, older generations left out."""
    kept = member.model_dump(exclude={"father", "mother"}, exclude_none=True)
    if not member.model:
        del kept["model"]
    for role, parent in member.parents if most else ():
        kept[role] = as_card(parent, most - 1)
    return kept


def lines(member: Member, role: str = "child", depth: int = 0) -> Iterator[str]:
    """Yield a family as a Markdown list, Father before Mother."""
    parts = [f"`{quoted(member.model)}`" if member.model else ""]
    if member.genome_hash:
        parts.append(f"generation {member.generation}, genome `{member.genome_hash}`")
    if member.heldout:
        parts.append(f"held-out score {score_words(member.heldout)}")
    if member.note:
        parts.append(quoted(member.note, most=300))
    words = ", ".join(part for part in parts if part)
    yield "  " * depth + (
        f"- {role}, {words}" if not member.model else f"- {role}: {words}"
    )
    for name, parent in member.parents:
        yield from lines(parent, name, depth + 1)


def score_words(found: Score) -> str:
    """Return a score with its standard error."""
    error = "" if found.stderr is None else f" ± {found.stderr:.4f}"
    return f"{found.score:.4f}{error}"


def draw_family(member: Member, path: Path) -> None:
    """Draw a family: the child on the left, each Father above the Mother."""
    places: list[tuple[Member, str, int, float, int]] = []
    _place(member, "child", 0, places)
    columns = 1 + max(column for _, _, column, _, _ in places)
    rows = sum(not one.parents for one, *_ in places)
    figure = plots.figure(3.4 * columns, 0.5 + 1.0 * rows)
    axes = figure.subplots()
    for one, role, column, row, child in places:
        if child >= 0:
            _, _, left, height, _ = places[child]
            axes.plot([left, column], [height, row], color=plots.OTHER, lw=1, zorder=0)
        axes.text(
            column,
            row,
            plots.plain(_label(one, role)),
            ha="center",
            va="center",
            fontsize=8,
            bbox={
                "fc": "white",
                "ec": plots.ROLES[role],
                "boxstyle": "round,pad=0.4",
            },
        )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.axis("off")
    plots.save(figure, path)


def _place(member: Member, role: str, column: int, places: list[Any]) -> float:
    """Give every member a column and a row: leaves one below the other."""
    mine = len(places)
    places.append(None)
    rows = []
    for name, parent in member.parents:
        there = len(places)
        rows.append(_place(parent, name, column + 1, places))
        places[there] = (*places[there][:4], mine)
    leaves = sum(one is not None and not one[0].parents for one in places)
    row = sum(rows) / len(rows) if rows else float(leaves)
    places[mine] = (member, role, column, row, -1)
    return row


def _label(member: Member, role: str) -> str:
    rows = [quoted(member.model, 34) if member.model else role]
    if member.genome_hash:
        rows.append(f"generation {member.generation}, {member.genome_hash[:8]}")
    if member.heldout:
        rows.append(f"held-out {score_words(member.heldout)}")
    if member.note:
        rows.append("card not followed")
    return "\n".join(rows)
