"""Digests of everything deterministic that the commands make of the tiny family.

    PYTHONPATH=CHECKOUT python tools/digests.py --out new.json
    PYTHONPATH=CHECKOUT python tools/digests.py --out new.json --compare old.json

The oracle of a restructuring: it knows the public commands, the YAML and the formats of
DESIGN 13, and no module of ours, so that it runs over any layout; PYTHONPATH says which
checkout is tried. `--compare` prints what differs and exits with 1; `--keep` leaves the
files themselves, to be compared with diff; `--only` runs what a few names need.

What may depend on more than the code: everything is made on one CPU thread. Merges,
tables, the static part of a report and files about weights are integer arithmetic and
float32 or float64 in a fixed order, and merges get a report whose probes are rounded,
so `merge/`, `ratios/`, `scan/*/static` and `health/*/weights` should be the same on
every machine with the same torch and NumPy. Under `probes/` and `evolve/` stand numbers
that went through a model: the same for the same processor kind, torch, transformers and
lm-eval only, and rounded to 6 digits. tools/digests.json is of an AMD EPYC,
torch 2.13.0+cpu, transformers 5.23.0, lm-eval 0.4.13, NumPy 2.4.6, numba 0.68.1.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import importlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TQDM_DISABLE"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import yaml  # noqa: E402  (after the threads are counted)

FAMILY = Path(__file__).resolve().parent.parent / "examples" / "tiny_family"
SKILLS = ("reasoning", "code", "math", "knowledge", "language")
SPREAD = {"attn_ratio": 0.3, "ffn_ratio": 0.7, "mri_trust": 0.4, "block_5_ratio": 0.9}
PUBLISHED = dict(
    zip(
        ("global_ratio", "attn_ratio", "ffn_ratio", "embed_ratio", "density_a"),
        (0.5147, 0.3169, 0.9316, 0.7748, 0.8997),
        strict=True,
    ),
    density_b=0.9539,
    block_0_ratio=0.6628,
    block_1_ratio=0.6431,
    block_2_ratio=0.5146,
    block_3_ratio=0.5971,
    block_4_ratio=0.6339,
    block_5_ratio=0.8583,
    mri_trust=0.3631,
    merge_method_weight=0.6897,
)

# A case: the parameters, and whole keys of the YAML to set (None takes one away).
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "third base": ({"attn_ratio": 0.45, "ffn_ratio": 0.55, "lambda": 1.6}, {}),
    "father base": (SPREAD, {"base_model": "FATHER"}),
    "no base": (SPREAD, {"base_model": None}),
    "published genome": (PUBLISHED, {}),
    "published genome, father base": (PUBLISHED, {"base_model": "FATHER"}),
    "report published": ({"mds": "REPORT", **SPREAD}, {}),
    "report relative": ({"mds": "REPORT", "mri": "relative", **SPREAD}, {}),
    "report attribution": ({"mds": "REPORT", "mri": "attribution", **SPREAD}, {}),
    "genome file": ({"genome": "GENOME", "ffn_ratio": 0.2}, {}),
    "gradient": ({"ratio": [0.0, 0.3, 0.6, 1.0]}, {}),
    "filters": (
        {
            "attn_ratio": [{"filter": "q_proj", "value": 0.1}, {"value": 0.6}],
            "ratio": [{"filter": "lm_head", "value": 0.5}],
        },
        {},
    ),
    "table": ({"ratios": "TABLE", "density_a": 0.6}, {}),
    "mask seed": ({"mask_seed": 7, "density_a": 0.5, "density_b": 0.5}, {}),
    "no rescale": ({"rescale": False, "density_a": 0.5, **SPREAD}, {}),
    "normalize": ({"normalize": True, "density_b": 0.5, **SPREAD}, {}),
    "lambda": ({"lambda": 1.9, "merge_method_weight": 0.4}, {}),
    "no transplants": (
        {"ratio": 0.05, "transplant_low": 0.0, "transplant_high": 1.0},
        {},
    ),
    "many transplants": (
        {"transplant_low": 0.45, "transplant_high": 0.55, **SPREAD},
        {},
    ),
    "blocks": ({"blocks": 3, "block_0_ratio": 0.1, "block_2_ratio": 0.9}, {}),
    "density one": ({"density_a": 1.0, "density_b": 1.0, **SPREAD}, {}),
    "float32": (SPREAD, {"dtype": "float32"}),
    "float16": (SPREAD, {"dtype": "float16"}),
    "float32 to bfloat16": (SPREAD, {"dtype": "float32", "out_dtype": "bfloat16"}),
}
TABLED = ("third base", "father base", "report relative", "table", "blocks", "filters")
EXPLAINED = ("layers.2.self_attn.q_proj", "lm_head", "layers.5.input_layernorm")
METHODS = ("slerp", "linear", "nuslerp", "ties", "dare_ties")
Digests = dict[str, str]


def run(command: str, *arguments: str) -> tuple[int, str]:
    """Return a command's exit code and standard output, run in this process.

    What it says on standard error shows only where it ends with an exception.
    """
    main, text, talk = entry(command), io.StringIO(), io.StringIO()
    before = list(sys.argv)
    sys.argv[:] = [command, *arguments]
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(talk):
            main.main(list(arguments), prog_name=command, standalone_mode=False)
    except SystemExit as leaving:
        return int(leaving.code or 0), text.getvalue()
    except Exception:
        sys.stderr.write(talk.getvalue())
        raise
    finally:
        sys.argv[:] = before
    return 0, text.getvalue()


def entry(command: str) -> Any:
    """Return the click command behind a console script, of the checkout in use."""
    target = scripts().get(command)
    if target is None:
        (found,) = importlib.metadata.entry_points(
            group="console_scripts", name=command
        )
        target = found.value
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def scripts() -> dict[str, str]:
    """Return [project.scripts] of the checkout; none where it is installed."""
    file = checkout() / "pyproject.toml"
    if not file.exists():
        return {}
    pairs = re.findall(r'^(mergekit-[\w-]+) = "([\w.:]+)"', file.read_text(), re.M)
    return dict(pairs)


def checkout() -> Path:
    """Return the folder that holds the package in use."""
    import mergekit_darwin

    return Path(str(mergekit_darwin.__file__)).resolve().parent.parent


def sha(content: bytes | str) -> str:
    """Return the SHA-256 of bytes or of a text, in hex."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def tensors_digest(folder: Path) -> str:
    """Return a digest over name, dtype, shape and bytes of all tensors of a folder."""
    import torch
    from safetensors import safe_open

    rows = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():
                tensor = stored.get_tensor(name).contiguous()
                content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                rows.append([name, str(tensor.dtype), [*tensor.shape], sha(content)])
    if not rows:
        raise SystemExit(f"{folder} holds no tensors")
    return sha(json.dumps(sorted(rows)))


def rounded(value: Any, digits: int = 6) -> Any:
    """Return a JSON value with its floats rounded."""
    if isinstance(value, float):
        return round(value, digits) + 0.0  # no minus zero
    if isinstance(value, dict):
        return {key: rounded(row, digits) for key, row in value.items()}
    return [rounded(row, digits) for row in value] if isinstance(value, list) else value


class Bench:
    """A work folder, and the digests made in it so far."""

    def __init__(self, work: Path):
        self.work = work
        self.digests: Digests = {}

    def add(self, name: str, content: Any) -> None:
        """Note the digest of a text or a JSON value, paths taken out of it."""
        if not isinstance(content, str):
            content = json.dumps(content, sort_keys=True, indent=1)
        text = content.replace(str(self.work), "WORK").replace(str(FAMILY), "FAMILY")
        self.digests[name] = sha(text)
        kept = self.work / "kept" / f"{name}.txt"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)

    def yaml_of(self, case: str) -> Path:
        """Return the path of a case's YAML, written now."""
        parameters, changes = CASES[case]
        places = {
            "FATHER": str(FAMILY / "father"),
            "REPORT": str(self.work / "report"),
            "GENOME": str(self.work / "genome.json"),
            "TABLE": str(self.work / "table.csv"),
        }

        def placed(value: Any) -> Any:
            return places.get(value, value) if isinstance(value, str) else value

        content: dict[str, Any] = {
            "merge_method": "darwin_v6",
            "base_model": str(FAMILY / "base"),
            "models": [{"model": str(FAMILY / who)} for who in ("father", "mother")],
            "parameters": {key: placed(value) for key, value in parameters.items()},
            "dtype": "bfloat16",
            **{key: placed(value) for key, value in changes.items()},
        }
        content = {key: value for key, value in content.items() if value is not None}
        path = self.work / "yaml" / f"{case}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path


def succeed(command: str, *arguments: object) -> str:
    """Return a command's standard output. Raises SystemExit unless it exits with 0."""
    code, text = run(command, *map(str, arguments))
    if code != 0:
        raise SystemExit(f"{command} {arguments} left with {code}: {text}")
    return text


def scans(bench: Bench) -> None:
    """Scan the family in three ways; leave the rounded report that merges use."""
    probes = bench.work / "probes"
    probes.mkdir()
    for skill in SKILLS[:3]:
        lines = (FAMILY / "items" / skill / "search.jsonl").read_text().splitlines()
        (probes / f"{skill.upper()}.jsonl").write_text("\n".join(lines[:6]) + "\n")
    base = ("--base", FAMILY / "base")
    ways: dict[str, tuple[object, ...]] = {
        "whole": base,
        "own probes": (*base, "--probes", probes, "--max-tokens", 24),
        "static": ("--no-probes",),
    }
    for name, options in ways.items():
        out = bench.work / "scan" / name
        parents = (FAMILY / "father", FAMILY / "mother")
        succeed("mergekit-darwin-scan", *parents, *options, "--out", out, "--quiet")
        report = json.loads((out / "mds.json").read_text())
        report.pop("tool")
        static, probed = split(report)
        bench.add(f"scan/{name}/static", static)
        if options != ("--no-probes",):
            bench.add(f"probes/scan/{name}", rounded(probed))
    report = json.loads((bench.work / "scan" / "whole" / "mds.json").read_text())
    for who in ("father", "mother", "base"):
        for part in ("probes", "probe_loss", "gain", "curvature"):
            report[who][part] = rounded(report[who].get(part, {}), 4)
    (bench.work / "report").mkdir()
    (bench.work / "report" / "mds.json").write_text(json.dumps(report))


PROBED = ("probes", "probe_loss", "gain", "curvature", "passes")


def split(report: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a report's static part and what went through the models."""
    probed = {}
    for who in ("father", "mother", "base"):
        model = report.get(who) or {}
        probed[who] = {key: model.pop(key, None) for key in PROBED}
    return report, probed


def inputs(bench: Bench) -> None:
    """Write the genome file and the table that some cases read."""
    genes = {**PUBLISHED, "lambda": 1.3}
    content = {"format": "mergekit-darwin/genome", "version": 1, "genes": genes}
    (bench.work / "genome.json").write_text(json.dumps(content))
    text = succeed("mergekit-darwin-ratios", bench.yaml_of("third base"), "--csv")
    rows = list(csv.DictReader(text.splitlines()))
    for place, row in enumerate(rows[::3]):
        row["ratio"] = str(place % 11 / 10)
    with (bench.work / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def merges(bench: Bench) -> None:
    """Merge every case with the unmodified mergekit-yaml."""
    for case in CASES:
        out = bench.work / "merge" / case
        succeed("mergekit-yaml", bench.yaml_of(case), out, "--quiet")
        bench.digests[f"merge/{case}/tensors"] = tensors_digest(out)
        bench.add(f"merge/{case}/ratios", (out / "darwin_ratios.csv").read_text())


def tables(bench: Bench) -> None:
    """Print the ratios of some cases in every form."""
    command = "mergekit-darwin-ratios"
    for case in TABLED:
        path = bench.yaml_of(case)
        bench.add(f"ratios/{case}/json", succeed(command, path, "--json"))
        bench.add(f"ratios/{case}/csv", succeed(command, path, "--csv"))
        bench.add(f"ratios/{case}/screen", succeed(command, path))
        for tensor in EXPLAINED:
            text = succeed(command, path, "--explain", tensor)
            bench.add(f"ratios/{case}/explain {tensor}", text)
    for method in METHODS:
        text = succeed(command, bench.yaml_of("third base"), "--as", method)
        bench.add(f"ratios/as {method}", text)


def damaged(bench: Bench, name: str, source: Path) -> Path:
    """Return a copy of a child with something broken in it."""
    import torch
    from safetensors.torch import load_file, save_file

    out = bench.work / "damaged" / name
    shutil.copytree(source, out)
    state = load_file(out / "model.safetensors")
    for key, tensor in state.items():
        if name == "zeroed layer" and ".layers.2." in key:
            tensor.zero_()
        if name == "one NaN" and key == "model.layers.1.mlp.up_proj.weight":
            tensor.view(-1)[17] = torch.nan
        if name == "loud layer" and key.endswith("layers.4.mlp.down_proj.weight"):
            tensor.mul_(6)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


def healths(bench: Bench) -> None:
    """Check good and damaged children, with and without probes."""
    good = bench.work / "merge" / "third base"
    children = {
        "third base": good,
        "report relative": bench.work / "merge" / "report relative",
        "the Mother herself": FAMILY / "mother",
        **{
            name: damaged(bench, name, good)
            for name in ("zeroed layer", "one NaN", "loud layer")
        },
    }
    family = [
        word
        for who in ("father", "mother", "base")
        for word in (f"--{who}", FAMILY / who)
    ]
    for name, child in children.items():
        verify = "all" if name in ("third base", "zeroed layer") else "sample"
        report = health(bench, name, child, family, "--no-probes", "--verify", verify)
        bench.add(f"health/{name}/weights", report)
        mds = ("--mds", bench.work / "scan" / "whole")
        if name != "one NaN":
            report = health(bench, name, child, family, *mds, "--verify", "none")
            bench.add(f"probes/health/{name}", rounded(report))


def health(
    bench: Bench, name: str, child: Path, family: Iterable[object], *options: object
) -> dict[str, Any]:
    """Return health.json of a child, its exit code beside it."""
    out = bench.work / "health" / name
    words = [child, *family, *options, "--out", out, "--quiet"]
    code, _ = run("mergekit-darwin-health", *map(str, words))
    report: dict[str, Any] = json.loads((out / "health.json").read_text())
    report["settings"].pop("tool", None)
    return {"exit": code, **report}


def breeding(bench: Bench) -> None:
    """Breed over two skills; the log without times, best.yml and the final model."""
    skills, folder = ("math", "code"), bench.work / "RUN"
    content = {
        **{who: str(FAMILY / who) for who in ("father", "mother")},
        "base_model": str(FAMILY / "base"),
        "include_path": str(FAMILY / "tasks"),
        "tasks": [f"tiny_{skill}_search" for skill in skills],
        "heldout": [f"tiny_{skill}_heldout" for skill in skills],
        "limit": 24,
        "probe_items": 4,
        "search": {"seed": 1, "max_evaluations": 8, "top_k": 2},
    }
    path = bench.work / "evolve.yml"
    path.write_text(yaml.safe_dump(content))
    words = (path, "--storage-path", folder, "--num-threads", 1, "--quiet")
    code, _ = run("mergekit-darwin-evolve", *map(str, words))
    lines = [
        json.loads(line)
        for line in (folder / "evaluations.jsonl").read_text().splitlines()
    ]
    for line in lines:
        for key in ("merge_s", "eval_s"):
            line.pop(key, None)
    bench.add("evolve/log", rounded({"exit": code, "lines": lines}))
    bench.add("evolve/best.yml", rounded(yaml.safe_load((folder / "best.yml").open())))
    bench.digests["evolve/final tensors"] = tensors_digest(folder / "final_model")
    bench.add(
        "evolve/health",
        rounded(json.loads((folder / "health" / "health.json").read_text())),
    )


def differences(old: Digests, new: Digests) -> list[str]:
    """Return one line for every name whose digest is not the same in both."""
    lines = []
    for name in sorted({*old, *new}):
        if name not in new:
            lines.append(f"gone     {name}")
        elif name not in old:
            lines.append(f"new      {name}")
        elif old[name] != new[name]:
            lines.append(f"differs  {name}")
    return lines


STEPS: dict[str, Callable[[Bench], None]] = {
    "scan": scans,
    "merge": merges,
    "ratios": tables,
    "health": healths,
    "evolve": breeding,
}
NEEDS = {"health": ("merge",)}


def make(work: Path, only: list[str]) -> Digests:
    """Return the digests of all steps, or of some and what they need."""
    import torch

    importlib.import_module("mergekit.merge_methods")  # the autoload hook's cue
    import mergekit_darwin

    torch.set_num_threads(1)
    mergekit_darwin.register()
    print(f"trying {checkout()}", file=sys.stderr)
    bench = Bench(work)
    wanted = {*only, *(need for name in only for need in NEEDS.get(name, ()))}
    for name, step in STEPS.items():
        if name == "merge":
            inputs(bench)
        if not only or name == "scan" or name in wanted:
            print(f"{name} ...", file=sys.stderr)
            step(bench)
    return bench.digests


def main() -> int:
    """Make the digests, write them, compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file for the digests")
    parser.add_argument("--compare", type=Path, help="exit with 1 unless like this")
    parser.add_argument("--keep", type=Path, help="empty folder for all that is made")
    parser.add_argument("--only", nargs="*", default=[], choices=list(STEPS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_HOME"] = str(Path(scratch) / "cache")
        work = Path(given.keep or Path(scratch) / "work").resolve()
        work.mkdir(parents=True, exist_ok=True)
        digests = make(work, given.only)
    text = json.dumps(dict(sorted(digests.items())), indent=1) + "\n"
    if given.out:
        given.out.write_text(text)
    elif not given.compare:
        print(text, end="")
    if not given.compare:
        return 0
    old = json.loads(given.compare.read_text())
    if given.only:
        old = {name: row for name, row in old.items() if name in digests}
    lines = differences(old, digests)
    print("\n".join(lines) or f"all {len(digests)} digests are the same")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
