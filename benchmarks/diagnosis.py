"""Does the diagnosis mean anything? Every reading of a scan against the truth.

    python benchmarks/diagnosis.py [--items 240] [--probe-items 64] [--out FILE.md]

Truth, for each layer's attention and FFN (12 units of the tiny family), measured on
held-out items:
- transplant: the Mother's unit put whole into the Father;
- alone: the Mother's (or the Father's) task vector in that unit alone, on the base.
Its effect on each skill is the fall of the completions' loss (nats a token; accuracy
beside it). Each reading is one number a unit and skill; the table has Spearman's rank
correlation over the units, mean over skills, and for all skills together (mean effect
against the reading with all probes). 12 units: one correlation has a standard error of
about 0.3, a mean over five skills of about 0.13.

Two readings go beyond the report: (i) gain - curvature / 2, the second-order promise of
the whole step, where curvature is the mean over items of the squared gain (empirical
Fisher matrix); (j) the very same swap, measured on the probes' items: what a scan that
simply tried every unit would know, and so the most to be hoped for.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM

from mergekit_darwin.models.names import site_of
from mergekit_darwin.ratios.scores import report_scores, share
from mergekit_darwin.scan.attribution import measure_gains
from mergekit_darwin.scan.probes import Probe, ProbeItem, standard_probes
from mergekit_darwin.scan.report import ProbeSetting, Report
from mergekit_darwin.scan.run import scan
from mergekit_darwin.talk import ProbeOptions

FAMILY = Path(__file__).resolve().parents[1] / "examples" / "tiny_family"
SKILLS = ("REASONING", "CODE", "MATH", "KNOWLEDGE", "LANGUAGE")
UNITS = [(layer, part) for layer in range(6) for part in ("attn", "ffn")]
CASES = {  # name: (what is changed, where the unit comes from)
    "transplant": ("father", "mother"),
    "mother alone": ("base", "mother"),
    "father alone": ("base", "father"),
}
State = dict[str, torch.Tensor]
Table = dict[str, np.ndarray]  # skill -> [12]


@dataclass(frozen=True)
class Sequences:
    """All choices of some items as padded bytes: [items * 4, T]."""

    ids: torch.Tensor
    start: torch.Tensor  # first byte of the choice
    stop: torch.Tensor
    answer: torch.Tensor  # [items]


def read_items(skill: str, split: str, most: int) -> list[dict]:
    file = FAMILY / "items" / skill.lower() / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    step = max(1, len(rows) // most)
    return rows[::step][:most]


def sequences(rows: list[dict]) -> Sequences:
    texts, start = [], []
    for row in rows:
        for choice in row["choices"]:
            texts.append((row["prompt"] + choice).encode())
            start.append(len(row["prompt"].encode()))
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
    stop = torch.tensor([len(text) for text in texts])
    answer = torch.tensor([row["answer"] for row in rows])
    return Sequences(ids, torch.tensor(start), stop, answer)


@torch.no_grad()
def measure(model: torch.nn.Module, data: Sequences) -> tuple[float, float]:
    """Return accuracy and the right choices' mean loss in nats a token."""
    sums, counts = [], []
    for piece in range(0, len(data.ids), 256):
        part = slice(piece, piece + 256)
        ids = data.ids[part]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = -torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none"
        )
        place = torch.arange(1, ids.shape[1])
        inside = (place >= data.start[part, None]) & (place < data.stop[part, None])
        sums.append((each * inside).sum(1))
        counts.append(inside.sum(1))
    scores = torch.cat(sums).view(-1, 4)
    lengths = torch.cat(counts).view(-1, 4)
    right = data.answer[:, None]
    loss = -(scores.gather(1, right) / lengths.gather(1, right)).mean()
    accuracy = (scores.argmax(1) == data.answer).double().mean()
    return float(accuracy), float(loss)


def load(role: str) -> torch.nn.Module:
    path = FAMILY / role
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def unit_of(name: str) -> tuple[int, str] | None:
    site = site_of(name)
    known = site.layer is not None and site.component in ("attn", "ffn")
    return (site.layer, site.component) if known else None


def effects(
    start: State, donor: State, data: Mapping[str, Sequences]
) -> tuple[Table, Table]:
    """Return the fall of loss and rise of accuracy when one unit is the donor's."""
    model = load("base")
    model.load_state_dict(start)
    before = {skill: measure(model, rows) for skill, rows in data.items()}
    loss = {skill: np.zeros(len(UNITS)) for skill in data}
    accuracy = {skill: np.zeros(len(UNITS)) for skill in data}
    for place, unit in enumerate(UNITS):
        chosen = {k: donor[k] if unit_of(k) == unit else start[k] for k in start}
        model.load_state_dict(chosen)
        for skill, rows in data.items():
            found = measure(model, rows)
            accuracy[skill][place] = found[0] - before[skill][0]
            loss[skill][place] = before[skill][1] - found[1]
    return loss, accuracy


def truths(most: int, cache: Path) -> dict[str, tuple[Table, Table]]:
    """Return (loss, accuracy) effects of: transplant, mother alone, father alone."""
    states = {role: load(role).state_dict() for role in ("base", "father", "mother")}
    data = {skill: sequences(read_items(skill, "heldout", most)) for skill in SKILLS}
    found = {}
    for name, (start, donor) in CASES.items():
        file = cache / f"{name.replace(' ', '-')}-{most}.pt"
        if not file.exists():
            torch.save(effects(states[start], states[donor], data), file)
        found[name] = torch.load(file, weights_only=False)
    return found


@torch.no_grad()
def item_loss(model: torch.nn.Module, probe: Probe) -> float:
    """Return a probe's mean completion loss, item by item."""
    losses = []
    for item in probe.items:
        prompt, ids = item.prompt.encode(), (item.prompt + item.completion).encode()
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        targets = torch.tensor(list(ids[len(prompt) :]))
        rows = logits[len(prompt) - 1 : len(ids) - 1]
        losses.append(float(torch.nn.functional.cross_entropy(rows, targets)))
    return float(np.mean(losses))


def swaps(probes: list[Probe]) -> dict[str, Table]:
    """Return the fall of each probe's own loss by each swap, for each truth."""
    states = {role: load(role).state_dict() for role in ("base", "father", "mother")}
    model, found = load("base"), {}
    for case, (start, donor) in CASES.items():
        rows = []
        for unit in (None, *UNITS):
            side = {
                k: donor if unit and unit_of(k) == unit else start
                for k in states[start]
            }
            model.load_state_dict({k: states[role][k] for k, role in side.items()})
            rows.append([item_loss(model, probe) for probe in probes])
        fall = np.array(rows[0]) - np.array(rows[1:])  # [12, probes]
        found[case] = {p.name: fall[:, i] for i, p in enumerate(probes)}
    return found


def search_probes(most: int) -> list[Probe]:
    return [
        Probe(
            skill,
            tuple(
                ProbeItem(row["prompt"], row["completion"])
                for row in read_items(skill, "search", most)
            ),
            1.0 / len(SKILLS),
        )
        for skill in SKILLS
    ]


def only(report: Report, skill: str | None) -> Report:
    """Return the report with all weight on one probe; None keeps the equal weights."""
    if skill is None:
        return report
    probes = {
        name: ProbeSetting(
            digest=row.digest, items=row.items, weight=float(name == skill)
        )
        for name, row in report.settings.probes.items()
    }
    settings = report.settings.model_copy(update={"probes": probes})
    return report.model_copy(update={"settings": settings})


def per_unit(value: Callable[[str], float], names: list[str]) -> np.ndarray:
    """Return the mean of a tensor's number over each unit's tensors, [12]."""
    return np.array(
        [np.mean([value(n) for n in names if unit_of(n) == unit]) for unit in UNITS]
    )


def item_gains(probes: list[Probe]) -> list[dict[str, np.ndarray]]:
    """Return Father's and Mother's gains, skill -> [items, 12], an item at a time."""
    single = [
        Probe(f"{probe.name}:{i}", (item,), 1.0)
        for probe in probes
        for i, item in enumerate(probe.items)
    ]
    models = [str(FAMILY / role) for role in ("base", "father", "mother")]
    found = []
    for side in measure_gains(*models, single, ProbeOptions()):
        rows: dict[str, list[np.ndarray]] = {probe.name: [] for probe in probes}
        for name, row in side.gain.items():
            rows[name.split(":")[0]].append(
                np.array([sum(row[k] for k in row if unit_of(k) == u) for u in UNITS])
            )
        found.append({skill: np.array(each) for skill, each in rows.items()})
    return found


def second_order(items: dict[str, np.ndarray], skill: str | None) -> np.ndarray:
    """Return gain - curvature / 2 of each unit, [12]."""
    chosen = SKILLS if skill is None else (skill,)
    return np.mean(
        [items[s].mean(0) - 0.5 * (items[s] ** 2).mean(0) for s in chosen], axis=0
    )


def readings(
    report: Report, at_father: dict, items: list, skill: str | None
) -> dict[str, np.ndarray]:
    """Return every reading of a report for one skill (None: all), [12] each."""
    seen = only(report, skill)
    names = list(report.father.tensors)
    mri = {kind: report_scores(seen, kind) for kind in ("published", "relative")}
    mri["attribution"] = report_scores(seen, "attribution")
    chosen = SKILLS if skill is None else (skill,)

    def layers(side: object) -> np.ndarray:
        return np.mean([side.probes[s] for s in chosen], axis=0)

    def skipped(side: object) -> np.ndarray:
        rows = [side.probe_loss[s] for s in chosen]
        return np.mean([np.array(r.skipped) - r.full for r in rows], axis=0)

    def gain(table: dict) -> np.ndarray:
        value = {n: np.mean([table[s].get(n, 0.0) for s in chosen]) for n in names}
        return per_unit(value.__getitem__, names)

    father, mother = report.father, report.mother
    at = [layer for layer, _ in UNITS]
    father_gain, mother_gain = gain(father.gain), gain(mother.gain)
    pair = report.pair
    static = {
        n: share(father.tensors[n].static, mother.tensors[n].static) for n in names
    }
    father_second, mother_second = (second_order(side, skill) for side in items)
    return {
        "a mri_ratio published": per_unit(
            lambda n: mri["published"][n].mri_ratio, names
        ),
        "b mri_ratio relative": per_unit(lambda n: mri["relative"][n].mri_ratio, names),
        "c distance, Mother - Father": (layers(mother) - layers(father))[at],
        "c distance, Mother": layers(mother)[at],
        "d skipped loss, Mother - Father": (skipped(mother) - skipped(father))[at],
        "d skipped loss, Mother": skipped(mother)[at],
        "e static share": per_unit(static.__getitem__, names),
        "f norm of Mother's task vector": per_unit(
            lambda n: pair[n].norm_mother, names
        ),
        "f norms, Mother - Father": per_unit(
            lambda n: pair[n].norm_mother - pair[n].norm_father, names
        ),
        "f cosine of task vectors": per_unit(lambda n: pair[n].cosine, names),
        "f opposite signs": per_unit(lambda n: pair[n].opposite_signs, names),
        "g mri_ratio attribution": per_unit(
            lambda n: mri["attribution"][n].mri_ratio, names
        ),
        "g gain of Mother": mother_gain,
        "g gain, Mother - Father": mother_gain - father_gain,
        "g gain of Father": father_gain,
        "h gain Father -> Mother at the Father": gain(at_father),
        "i second order, Mother": mother_second,
        "i second order, Father": father_second,
        "i second order, Mother - Father": mother_second - father_second,
    }


def correlations(
    truth: Table, read: dict[str | None, dict[str, np.ndarray]]
) -> dict[str, tuple[float, float, list[float]]]:
    """Return, for each reading, rho: mean over skills, all together, each skill."""
    total = np.mean([truth[skill] for skill in SKILLS], axis=0)
    found = {}
    for name in read[None]:
        each = [rank(read[skill][name], truth[skill]) for skill in SKILLS]
        found[name] = (float(np.mean(each)), rank(read[None][name], total), each)
    return found


def rank(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def run(probes: list[Probe], cache: Path, label: str) -> dict:
    models = [str(FAMILY / role) for role in ("base", "father", "mother")]
    options = ProbeOptions(batch_size=32)
    base, father, mother = models
    report = scan(
        father, mother, base, out=cache / label, probes=probes, options=options
    )
    at_father, _ = measure_gains(father, mother, mother, probes, options)
    items = item_gains(probes)
    return {
        skill: readings(report, at_father, items, skill) for skill in (None, *SKILLS)
    }


def table(found: Mapping[str, dict]) -> str:
    columns = list(found)
    lines = ["| reading | " + " | ".join(columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for name in next(iter(found.values())):
        cells = [
            f"{found[c][name][0]:+.2f} ({found[c][name][1]:+.2f})" for c in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=240, help="held-out, a skill")
    parser.add_argument("--probe-items", type=int, default=64, help="search, a skill")
    parser.add_argument("--cache", type=Path, help="keep the measurements here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        effects_found = truths(options.items, cache)
        for label, probes in (
            ("search items", search_probes(options.probe_items)),
            ("shipped probes", [replace(p) for p in standard_probes()]),
        ):
            read = run(probes, cache, label.replace(" ", "-"))
            measured = swaps(probes)
            found = {}
            for name, (loss, accuracy) in effects_found.items():
                for skill in (None, *SKILLS):
                    chosen = SKILLS if skill is None else (skill,)
                    rows = [measured[name][s] for s in chosen]
                    read[skill]["j the same swap on the probes"] = np.mean(rows, axis=0)
                found[f"{name}, loss"] = correlations(loss, read)
                found[f"{name}, accuracy"] = correlations(accuracy, read)
            print(f"\nProbes: {label}\n\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
