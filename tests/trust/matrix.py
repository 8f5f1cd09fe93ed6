"""The matrix of bad inputs, as data: what is wrong, which command, how it must end.

A row's command runs on a stage (tests.trust.stage) after its harm was done. It must end
with the row's exit code; where that is 1 with one line on stderr that begins with
`Error:` (or names a finding that stops) and holds all of the row's words. Nothing that
was on the disk before may have changed, and no finished result may appear. `todo` marks
a row whose cause is not mended yet: it must fail until it is.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.trust import stage
from tests.trust.damage import BOMB, DAMAGES, DEEP, put

Harm = Callable[[Path], object]

COMMANDS = {
    "scan": "mergekit-darwin-scan {S}/father {S}/mother --base {S}/base --out {S}/out"
    " --probes {S}/probes --quiet",
    "static": "mergekit-darwin-scan {S}/father {S}/mother --out {S}/out"
    " --no-probes --quiet",
    "ratios": "mergekit-darwin-ratios {S}/darwin.yml --json --quiet",
    "merge": "mergekit-yaml {S}/darwin.yml {S}/out --quiet",
    "health": "mergekit-darwin-health {S}/child --father {S}/father --mother {S}/mother"
    " --base {S}/base --out {S}/out --no-probes --quiet",
    "evolve": "mergekit-darwin-evolve {S}/evolve.yml --storage-path {S}/out --quiet",
    "refit": "mergekit-darwin-refit {S}/child --father {S}/father --mother {S}/mother"
    " --probes {S}/probes --father-probes MATH --mother-probes WORDS"
    " --out {S}/out --quiet",
    "delphi": "mergekit-darwin-delphi {S}/father --tasks sums --out {S}/out"
    " --include-path {S}/gen --samples 4 --stage 2 --quiet",
}
RESULTS = ("mds.json", "health.json", "model.safetensors", "report.md", "best.yml")


@dataclass(frozen=True)
class Row:
    """One bad input: its name, the harm, the command's words, how it must end."""

    what: str
    command: str
    harm: Harm
    words: tuple[str, ...] = ()
    code: int = 1
    todo: str | None = None
    full: bool = False  # slow, or one of many of its kind: left to `make check-all`
    seconds: int = 30  # that the refusal may take on a busy machine
    place: str = "S"  # the name of the stage's folder

    def __str__(self) -> str:
        return f"{self.command.split()[0]}: {self.what}"


def nothing(folder: Path) -> None:
    """Do no harm: what is wrong stands in the command's words."""


def to_model(role: str, name: str, folder: Path) -> None:
    """Damage one model of a stage."""
    DAMAGES[name](folder / role)


# --- damaged models: the words that every command must say of each --------------------

CONFIGS = {
    "config missing": "config.json",
    "config empty": "config.json no JSON",
    "config no JSON": "config.json no JSON",
    "config a list": "config.json object list",
    "config a number": "config.json object int",
    "config null": "config.json object NoneType",
    "config cut": "config.json no JSON",
    "config nested deeply": "config.json nested too deeply",
    "config other bytes": "config.json no UTF-8",
    "config a folder": "config.json a folder",
    "config a dangling link": "config.json",
    "model_type unknown": "config.json quatsch",
    "model_type missing": "config.json model_type",
    "model_type a number": "config.json 3",
    "architectures a word": "config.json architectures",
    "architectures of numbers": "config.json architectures",
    "architectures empty": "config.json architectures",
    "architectures null": "config.json architectures",
    "hidden_size a word": "config.json hidden_size",
    "hidden_size null": "config.json hidden_size",
    "layers a word": "config.json num_hidden_layers",
    "layers -1": "config.json num_hidden_layers -1",
    "layers 0": "config.json num_hidden_layers 0",
    "layers a billion": "config.json num_hidden_layers 1000000000 tensors",
    "layers 2.5": "config.json num_hidden_layers",
    "heads 3": "config.json",
    "heads 0": "config.json",
    "dtype unknown": "config.json float7",
    "rope garbage": "config.json rope_parameters",
    "tied a word": "config.json tie_word_embeddings",
    "auto_map to code": "config.json code",
}
FILES = {
    "weights missing": "mother weights",
    "weights empty": "mother header",
    "weights cut": "mother",
    "weights cut in the header": "mother header",
    "weights a folder": "mother",
    "weights a dangling link": "mother",
    "header of 2^62 bytes": "mother header",
    "header no JSON": "mother header",
    "header a list": "mother header",
    "header nested deeply": "mother header",
    "offsets overlap": "mother offset",
    "offsets beyond": "mother offset",
    "offsets missing": "mother header",
    "dtype F7": "mother F7",
    "shape lies": "mother",
    "shape negative": "mother",
    "index to no shard": "mother model-00001-of-00002.safetensors",
    "index outside": "mother ../father/model.safetensors",
    "index half absent": "mother model-00002-of-00002.safetensors",
    "index map empty": "mother",
    "index names a stranger": "mother no.such.weight",
    "index maps to a number": "mother",
    "offsets of words": "mother",
    "shape of a half": "mother",
    "index no JSON": "mother",
    "index a list": "mother",
    "index without map": "mother weight_map",
    "bin garbage": "mother",
    "bin that runs": "mother",
}
INTEGERS = {
    name: "other model.layers.1.mlp.up_proj.weight"
    for name in ("int8 matrix", "uint8 matrix", "bool matrix", "complex matrix")
}
NO_PROBES_NEED = (
    "tokenizer missing",
    "tokenizer garbage",
    "tokenizer nested deeply",
    "tokenizer_config a list",
)
HANGS = (  # of which nothing or no end would come; mergekit itself waits for them
    "index a fifo",
    "config a device",
    "tokenizer a fifo",
    "card a fifo",
    "weights a device",
)
CARDS = ("card a bomb", "card nested deeply", "card lies", "card of itself")


def model_rows() -> Iterator[Row]:
    """Yield every damaged model with the commands that read that much of it."""
    reading = ("static", "ratios", "merge", "health")
    for number, (name, words) in enumerate({**CONFIGS, **FILES}.items()):
        harm = partial(to_model, "mother", name)
        for place, command in enumerate(reading):
            rest = number % len(reading) != place
            said = tuple(words.split())
            yield Row(name, COMMANDS[command], harm, said, full=rest)
    for name, words in INTEGERS.items():
        for command in ("static", "ratios", "merge"):
            harm = partial(to_model, "mother", name)
            said = tuple(words.split())
            yield Row(name, COMMANDS[command], harm, said)
        harm = partial(to_model, "child", name)
        yield Row(name, COMMANDS["health"], harm, code=3)
    for name in NO_PROBES_NEED:
        harm = partial(to_model, "mother", name)
        yield Row(name, COMMANDS["scan"], harm, ("mother", "tokenizer"))
        yield Row(name, COMMANDS["static"], harm, code=0)
        said = ("mother", "tokenizer")
        yield Row(name, COMMANDS["evolve"], harm, said, full=True, seconds=120)
    for name in HANGS:
        harm = partial(to_model, "mother", name)
        for command in ("static", "ratios", "health"):
            yield Row(name, COMMANDS[command], harm, ("mother", "regular"))
        harm = partial(to_model, "father", name)
        yield Row(name, COMMANDS["delphi"], harm, ("father", "regular"))
    harm = partial(to_model, "mother", "longest text a word")
    yield Row("longest text a word", COMMANDS["scan"], harm, ("tokenizer",))
    harm = partial(to_model, "mother", "more tokens than rows")
    said = ("mother", "token")
    yield Row("more tokens than rows", COMMANDS["scan"], harm, said)
    for name in (*CARDS, "card other bytes"):
        harm = partial(to_model, "mother", name)
        for command in ("static", "merge", "health"):
            yield Row(name, COMMANDS[command], harm, code=0)
    for name in ("NaN in a matrix", "Inf in the head"):
        harm = partial(to_model, "mother", name)
        words = ("finite", "Mother") if name.startswith("NaN") else ("finite",)
        yield Row(name, COMMANDS["static"], harm, ("finite", "mother"))
        yield Row(name, COMMANDS["merge"], harm, words)
        yield Row(name, COMMANDS["health"], partial(to_model, "child", name), code=3)
    for name in ("config missing", "weights missing", "config a list"):
        harm = partial(to_model, "child", name)
        yield Row(f"child's {name}", COMMANDS["health"], harm, ("child",))
        harm = partial(to_model, "base", name)
        yield Row(f"base's {name}", COMMANDS["evolve"], harm, ("base",))
        harm = partial(to_model, "father", name)
        yield Row(f"father's {name}", COMMANDS["evolve"], harm, ("father",))


# --- documents: the report, genome and table that a YAML names ------------------------


def at(name: str, content: str | bytes) -> Harm:
    """Return a harm that puts other content into a file of the stage."""
    return partial(put, name, content)


def changed(name: str, change: Callable[[dict[str, Any]], None]) -> Harm:
    """Return a harm that changes a JSON document of the stage."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return harm


def naming(key: str, file: str, harm: Harm) -> Harm:
    """Return a harm after which darwin.yml names the harmed file under a key."""

    def both(folder: Path) -> None:
        parameters = {**stage.GENES, key: str(folder / file)}
        stage.write_yaml(folder, parameters)
        harm(folder)

    return both


def fifo(name: str, folder: Path) -> None:
    """Put a fifo that nobody writes to where a file should be."""
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets the value at a path of keys; the last is the value."""

    def change(content: dict[str, Any]) -> None:
        *way, key, value = path
        for step in way:
            content = content[step]
        content[key] = value

    return change


def _first_tensor(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        next(iter(content["father"]["tensors"].values()))[key] = value

    return change


DOCUMENT = {
    "missing": (lambda folder, name: (folder / name).unlink(), "{name}"),
    "empty": (lambda folder, name: put(name, "", folder), "{name} JSON"),
    "garbage": (lambda folder, name: put(name, "what?", folder), "{name}"),
    "a list": (lambda folder, name: put(name, "[]", folder), "{name}"),
    "a number": (lambda folder, name: put(name, "3", folder), "{name}"),
    "other bytes": (lambda folder, name: put(name, b"\xff\xfe", folder), "{name}"),
    "nested deeply": (lambda folder, name: put(name, DEEP, folder), "{name}"),
    "a fifo": (lambda folder, name: fifo(name, folder), "{name} regular"),
}
REPORTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "format": (_set("format", "quatsch"), "format"),
    "version 2": (_set("version", 2), "version"),
    "unknown key": (_set("extra", 1), "extra"),
    "father a word": (_set("father", "x"), "father"),
    "NaN entropy": (_first_tensor("entropy", float("nan")), ""),
    "entropy 2": (_first_tensor("entropy", 2.0), "entropy"),
    "entropy a word": (_first_tensor("entropy", "much"), "entropy"),
    "numel negative": (_first_tensor("numel", -1), "numel"),
    "no tensors": (_set("father", "tensors", {}), ""),
    "other digest": (_set("mother", "digest", "0" * 16), "scan"),
    "one distance more": (
        lambda c: c["father"]["probes"]["MATH"].append(0.1),
        "MATH",
    ),
    "distance 3": (lambda c: c["father"]["probes"]["MATH"].__setitem__(0, 3.0), "MATH"),
    "layers -1": (_set("father", "layers", -1), "layers"),
}
GENOMES = {
    "format": ({"format": "x"}, "genome.json"),
    "version": ({"version": 3}, "genome.json version"),
    "no genes": ({"genes": None}, "genome.json genes"),
    "unknown gene": ({"genes": {"atn_ratio": 0.3}}, "atn_ratio attn_ratio"),
    "gene 2": ({"genes": {"attn_ratio": 2.0}}, "attn_ratio 2"),
    "gene a word": ({"genes": {"attn_ratio": "much"}}, "attn_ratio"),
    "gene a boolean": ({"genes": {"attn_ratio": True}}, "attn_ratio"),
    "density 0": ({"genes": {"density_a": 0.0}}, "density_a"),
    "extra key": ({"comment": "mine"}, "comment"),
}
TWICE = '{"format": "mergekit-darwin/genome", "version": 1, "genes": {%s}}'
TABLES = {
    "no ratio column": ("name,share\nlm_head.weight,0.2\n", "table.csv ratio"),
    "a row too long": ("name,ratio\nlm_head.weight,0.2,9\n", "table.csv line 2"),
    "a row too short": ("name,ratio\nlm_head.weight\n", "table.csv line 2"),
    "a column twice": ("name,ratio,ratio\nlm_head.weight,0.2,0.3\n", "ratio twice"),
    "a name twice": (
        "name,ratio\nlm_head.weight,0.2\nlm_head.weight,0.2\n",
        "lm_head.weight twice",
    ),
    "a ratio of 2": ("name,ratio\nlm_head.weight,2\n", "lm_head.weight 2"),
    "a ratio NaN": ("name,ratio\nlm_head.weight,nan\n", "lm_head.weight nan"),
    "a ratio in words": ("name,ratio\nlm_head.weight,half\n", "lm_head.weight half"),
    "an empty ratio": ("name,ratio\nlm_head.weight,\n", "lm_head.weight"),
    "an unknown name": ("name,ratio\nlm_had.weight,0.2\n", "lm_had.weight"),
    "a header only": ("name,ratio\n", "table.csv"),
    "an open quote": ('name,ratio\n"lm_head.weight,0.2\n', "table.csv"),
    "a NUL": ("name,ratio\nlm_head\0.weight,0.2\n", "table.csv"),
}


def document_rows() -> Iterator[Row]:
    """Yield every damaged report, genome and table under the YAML that names it."""
    for key, name in (("mds", "mds/mds.json"), ("genome", "genome.json")):
        for what, (harm, words) in DOCUMENT.items():
            made = naming(key, name, partial(_call, harm, name))
            said = tuple(words.format(name=name.split("/")[-1]).split())
            yield Row(f"{key} {what}", COMMANDS["ratios"], made, said)
        yield Row(f"{key} garbage", COMMANDS["merge"], made, (name.split("/")[-1],))
    for what in ("missing", "other bytes", "a fifo", "empty"):
        harm, words = DOCUMENT[what]
        made = naming("ratios", "table.csv", partial(_call, harm, "table.csv"))
        yield Row(f"table {what}", COMMANDS["ratios"], made, ("table.csv",))
    for what, (change, words) in REPORTS.items():
        made = naming("mds", "mds", changed("mds/mds.json", change))
        yield Row(f"report: {what}", COMMANDS["ratios"], made, tuple(words.split()))
        more = f"{COMMANDS['health']} --mds {{S}}/mds".replace(" --no-probes", "")
        if what in ("format", "father a word", "other digest"):
            harm_ = changed("mds/mds.json", change)
            yield Row(f"report: {what}", more, harm_, tuple(words.split()))
    for what, (keys, words) in GENOMES.items():
        made = naming("genome", "genome.json", changed("genome.json", _update(keys)))
        yield Row(f"genome: {what}", COMMANDS["merge"], made, tuple(words.split()))
    for what, (text, words) in TABLES.items():
        made = naming("ratios", "table.csv", at("table.csv", text))
        yield Row(f"table: {what}", COMMANDS["ratios"], made, tuple(words.split()))
    text = TWICE % '"attn_ratio": 0.1, "attn_ratio": 0.9'
    made = naming("genome", "genome.json", at("genome.json", text))
    yield Row("genome: a gene twice", COMMANDS["merge"], made, ("attn_ratio", "twice"))
    text = '[{"name": "lm_head.weight", "ratio": 0.5, "ratio": 0.1}]'
    made = naming("ratios", "table.json", at("table.json", text))
    yield Row("table: a key twice", COMMANDS["ratios"], made, ("ratio", "twice"))
    rows = '[{"name": "lm_head.weight", "ratio": true}]'
    made = naming("ratios", "table.json", at("table.json", rows))
    yield Row("table: a boolean", COMMANDS["ratios"], made, ("lm_head.weight", "True"))


def _call(harm: Callable[[Path, str], object], name: str, folder: Path) -> None:
    harm(folder, name)


def _update(keys: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(keys)


# --- the YAMLs -----------------------------------------------------------------------

PARAMETERS = {
    "unknown": ({"atn_ratio": 0.3}, "atn_ratio attn_ratio"),
    "ratio 2": ({"ratio": 2}, "ratio 2"),
    "ratio a word": ({"ratio": "half"}, "ratio half"),
    "ratio NaN": ({"ratio": float("nan")}, "ratio nan"),
    "ratio a boolean": ({"ratio": True}, "ratio True"),
    "density 0": ({"density_a": 0}, "density_a 0"),
    "lambda infinite": ({"lambda": float("inf")}, "lambda inf"),
    "mri unknown": ({"mri": "relatve"}, "mri relative"),
    "mri without a report": ({"mri": "attribution"}, "attribution mds"),
    "mask_seed 1.5": ({"mask_seed": 1.5}, "mask_seed 1.5"),
    "mask_seed infinite": ({"mask_seed": float("inf")}, "mask_seed inf"),
    "mask_seed a word": ({"mask_seed": "seed"}, "mask_seed seed"),
    "limits crossed": (
        {"transplant_low": 0.9, "transplant_high": 0.1},
        "transplant_low transplant_high",
    ),
    "rescale a word": ({"rescale": "perhaps"}, "rescale perhaps"),
    "blocks 0": ({"blocks": 0}, "blocks 0"),
    "blocks infinite": ({"blocks": float("inf")}, "blocks inf"),
    "mds a number": ({"mds": 7}, "mds 7"),
    "mds a list": ({"mds": ["a"]}, "mds"),
    "genome nowhere": ({"genome": "nowhere.json"}, "genome nowhere.json"),
    "table nowhere": ({"ratios": "nowhere.csv"}, "ratios nowhere.csv"),
    "an empty list": ({"attn_ratio": []}, "attn_ratio"),
    "darwin_plan": ({"darwin_plan": 1}, "darwin_plan"),
}
YAMLS = {
    "missing": None,
    "empty": "",
    "no YAML": "models: [",
    "a list": "- a\n",
    "a bomb": BOMB,
    "nested deeply": "a: " + "[" * 5000,
    "other bytes": b"\xff\xfe\x00",
    "python tags": "!!python/object/apply:os.system ['true']",
    "no models": "merge_method: darwin_v6\n",
    "a cycle": "merge_method: &a [*a]\n",
}


def yaml_rows() -> Iterator[Row]:
    """Yield bad parameters and bad files of YAML."""
    for what, (parameters, words) in PARAMETERS.items():
        harm = partial(stage.write_yaml, parameters=parameters)
        yield Row(f"{what}", COMMANDS["ratios"], harm, tuple(words.split()))
        yield Row(f"{what}", COMMANDS["merge"], harm, tuple(words.split()))
    for what, text in YAMLS.items():
        for command, name in (("ratios", "darwin.yml"), ("evolve", "evolve.yml")):
            if text is None:
                harm = partial(lambda name, folder: (folder / name).unlink(), name)
                code = 2 if command == "evolve" else 1
                yield Row(f"YAML {what}", COMMANDS[command], harm, (name,), code)
            else:
                yield Row(f"YAML {what}", COMMANDS[command], at(name, text), (name,))
    for command, name in (("ratios", "darwin.yml"), ("evolve", "evolve.yml")):
        harm = partial(fifo, name)
        yield Row("YAML a fifo", COMMANDS[command], harm, (name, "regular"))
    models = {
        "one parent": (["father"], "father"),
        "three parents": (["father", "mother", "child"], "two parents"),
        "the same twice": (["father", "father"], "two"),
        "a parent nowhere": (["father", "nowhere"], "nowhere"),
    }
    for what, (names, words) in models.items():
        for command in ("ratios", "merge"):
            harm = partial(_models, names)
            yield Row(what, COMMANDS[command], harm, tuple(words.split()))
    for what, keys, words in (
        ("the Mother as base", {"base_model": "{S}/mother"}, "base_model Father"),
        ("a base nowhere", {"base_model": "{S}/nowhere"}, "nowhere"),
        ("a dtype unknown", {"dtype": "float7"}, "dtype float7"),
        ("another method", {"merge_method": "quatsch"}, "quatsch"),
    ):
        harm = partial(_keys, keys)
        yield Row(what, COMMANDS["ratios"], harm, tuple(words.split()))
        yield Row(what, COMMANDS["merge"], harm, tuple(words.split()))


def written(change: Callable[[str], str], name: str, folder: Path) -> None:
    """Change a YAML of the stage as text."""
    text = (folder / name).read_text()
    (folder / name).write_bytes(change(text).encode())


def source_rows() -> Iterator[Row]:
    """Yield YAMLs that only their text shows to be wrong; both kinds of reader ask."""
    changes: dict[str, tuple[Callable[[str], str], str, int]] = {
        "a key twice": (lambda text: text + "dtype: float32\n", "dtype twice", 1),
        "a gene twice": (
            lambda text: text.replace("parameters:", "parameters:\n  attn_ratio: 0.9"),
            "attn_ratio twice",
            1,
        ),
        "a key misspelt": (
            lambda text: text.replace("parameters:", "paramters:"),
            "paramters parameters",
            1,
        ),
        "an unknown dtype to write": (
            lambda text: text + "out_dtype: float7\n",
            "out_dtype float7",
            1,
        ),
        "Windows' line ends": (lambda text: text.replace("\n", "\r\n"), "", 0),
        "a place for anchors": (
            lambda text: (
                "x: &x {attn_ratio: 0.2}\n"
                + text.replace("parameters:", "parameters:\n  <<: *x")
            ),
            "",
            0,
        ),
    }
    for what, (change, words, code) in changes.items():
        harm = partial(written, change, "darwin.yml")
        for command in ("ratios", "merge"):
            yield Row(what, COMMANDS[command], harm, tuple(words.split()), code)
    marked = partial(written, lambda text: "\ufeff" + text, "darwin.yml")
    yield Row("a mark in front", COMMANDS["ratios"], marked, code=0)
    endless = partial(written, lambda text: text + "#" * 9_000_000, "darwin.yml")
    yield Row("9 MB", COMMANDS["ratios"], endless, ("darwin.yml", "longer"))
    more = partial(written, lambda text: text + "blocks: 3\n", "evolve.yml")
    yield Row("a key twice", COMMANDS["evolve"], more, ("blocks", "twice"))


def _models(names: list[str], folder: Path) -> None:
    stage.write_yaml(folder, models=[{"model": str(folder / name)} for name in names])


def _keys(keys: dict[str, str], folder: Path) -> None:
    placed = {key: value.format(S=folder) for key, value in keys.items()}
    stage.write_yaml(folder, **placed)


EVOLVES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"task": ["x"]}, "task tasks"),
    "no tasks": ({"tasks": []}, "tasks"),
    "unknown task": ({"tasks": ["toy_sum"]}, "toy_sum toy_sums"),
    "task twice": ({"tasks": ["toy_sums", "toy_sums"]}, "twice"),
    "weight 0": ({"tasks": [{"name": "toy_sums", "weight": 0}]}, "weight 0"),
    "unknown metric": (
        {"tasks": [{"name": "toy_sums", "metric": "acccc"}]},
        "toy_sums acccc",
    ),
    "father nowhere": ({"father": "./nowhere"}, "nowhere"),
    "the same parents": ({"mother": "{S}/father"}, "two different"),
    "seed 0": ({"search": {"seed": 0}}, "seed 0"),
    "seed of 2^40": ({"search": {"seed": 2**40}}, "seed"),
    "sigma NaN": ({"search": {"sigma0": float("nan")}}, "sigma0"),
    "budget 0": ({"search": {"max_evaluations": 0}}, "max_evaluations"),
    "popsize a word": ({"search": {"popsize": "many"}}, "popsize"),
    "heldout []": ({"heldout": []}, "heldout"),
    "heldout 1": ({"heldout": 1.0}, "heldout"),
    "heldout searched": ({"heldout": ["toy_sums"]}, "toy_sums"),
    "include nowhere": ({"include_path": "./nowhere"}, "include_path nowhere"),
    "mds nowhere": ({"mds": "./nowhere"}, "mds nowhere"),
    "probes nowhere": ({"probes": "./nowhere"}, "probes nowhere"),
    "blocks 10^6": ({"blocks": 10**6}, "blocks"),
    "model_args pretrained": ({"model_args": {"pretrained": "x"}}, "pretrained"),
    "model_args batch_size": ({"model_args": {"batch_size": 1}}, "--batch-size"),
    "model_type unknown": ({"model_type": "quatsch"}, "quatsch"),
    "dtype unknown": ({"dtype": "float7"}, "float7"),
    "two tokenizers": (
        {"tokenizer_source": "base", "tokenizer": {"source": "base"}},
        "tokenizer",
    ),
    "a benchmark": ({"tasks": ["mmlu"]}, "mmlu --allow-benchmark-tasks"),
    "no chat template": ({"apply_chat_template": True}, "chat template"),
}


# Found by loading all of the harness's tasks, or a model: the slow ones.
_LATE = (
    "unknown task",
    "unknown metric",
    "seed of 2^40",
    "heldout []",
    "model_args pretrained",
    "model_args batch_size",
    "model_type unknown",
    "dtype unknown",
    "no chat template",
)


def evolve_rows() -> Iterator[Row]:
    """Yield bad EVOLVE.yml files; all must be found before the scan."""
    for what, (keys, words) in EVOLVES.items():
        yield Row(
            what,
            COMMANDS["evolve"],
            partial(_evolve, keys),
            tuple(words.split()),
            full=what in _LATE,
            seconds=120,
        )
    for what, more, words in (
        ("a device unknown", "--device quatsch", "--device quatsch"),
        ("no CUDA", "--device cuda", "--device cuda"),
        ("batch size a word", "--batch-size many", "--batch-size many"),
        ("scratch a file", "--scratch {S}/table.csv", "--scratch"),
    ):
        line = f"{COMMANDS['evolve']} {more}"
        code = 2 if "scratch" in more else 1
        said = tuple(words.split())
        yield Row(what, line, nothing, said, code, full=True, seconds=120)
    for what, name, content in (
        ("a config edited", "config.yml", "father: x\n"),
        ("a config of no YAML", "config.yml", "["),
        ("a config of a list", "config.yml", "[]"),
        ("a config of other bytes", "config.yml", b"\xff\xfe"),
        ("a config nested deeply", "config.yml", "a: " + "[" * 5000),
        ("a log of garbage", "evaluations.jsonl", "what?\n"),
        ("a log of other bytes", "evaluations.jsonl", b"\xff\xfe\n"),
        ("a log of lists", "evaluations.jsonl", "[]\n"),
        ("a log nested deeply", "evaluations.jsonl", DEEP + "\n"),
        ("a foreign report.md", "report.md", "mine"),
        ("a foreign best.yml", "best.yml", "mine: 1\n"),
        ("a foreign file", "diary.txt", "mine"),
    ):
        harm = partial(_run_folder, name, content)
        yield Row(what, COMMANDS["evolve"], harm, ("out",))


def _evolve(keys: dict[str, Any], folder: Path) -> None:
    text = yaml.safe_dump(keys).replace("{S}", str(folder))
    stage.write_evolve(folder, **yaml.safe_load(text))


def _run_folder(name: str, content: str | bytes, folder: Path) -> None:
    (folder / "out").mkdir()
    put(name, content, folder / "out")


# --- refit and delphi -----------------------------------------------------------------

REFITS = {
    "--ridge nan": "ridge",
    "--ridge -1": "ridge",
    "--keep-weight -1": "keep",
    "--rho nan --base {S}/base": "rho",
    "--father-probes NO": "NO",
    "--keep {S}/mds": "mds",
    "--device quatsch": "--device quatsch",
    "--base {S}/nowhere": "nowhere",
}
DELPHIS = {
    "--samples 0": "",
    "--stage 99": "stage",
    "--risk nan": "risk",
    "--temperature 0": "temperature",
    "--limit 0": "limit",
    "--gen-kwargs quatsch=1": "quatsch",
    "--model-args pretrained=x": "--model-args pretrained",
    "--model-args dtype=float7": "float7",
    "--model-type quatsch": "quatsch",
    "--extract (": "extract",
    "--metric quatsch": "quatsch",
    "--apply-chat-template": "chat",
    "--batch-size x": "batch",
}
TEXTS: dict[str, tuple[str, str, str]] = {
    "a log of garbage": ("samples.jsonl", "what?\n", "--out samples.jsonl"),
    "a log nested deeply": ("samples.jsonl", DEEP + "\n", "--out samples.jsonl"),
    "settings of no JSON": ("settings.json", "{", "--out settings.json"),
    "settings of a list": ("settings.json", "[1]", "settings.json"),
}


def text_rows() -> Iterator[Row]:
    """Yield what refit and delphi are given wrongly."""
    for command, options in (("refit", REFITS), ("delphi", DELPHIS)):
        for more, words in options.items():
            line, said = f"{COMMANDS[command]} {more}", tuple(words.split())
            yield Row(more, line, nothing, said, full=command == "delphi")
    for more in ("--batch-size 0", "--max-tokens 1", "--sweeps 0"):
        yield Row(more, f"{COMMANDS['refit']} {more}", nothing, ("Invalid",), 2)
    for what, (name, content, words) in TEXTS.items():
        harm = partial(_out_with, name, content)
        yield Row(what, COMMANDS["delphi"], harm, tuple(words.split()))
    harm = partial(_out_with, "mine.txt", "mine")
    yield Row("--out taken", COMMANDS["refit"], harm, ("--out", "out"))
    for name in ("matrix of other shape", "layers 3 of 2", "tokenizer missing"):
        harm = partial(to_model, "child", name)
        yield Row(f"child's {name}", COMMANDS["refit"], harm, ("child",))
    for name in ("weights cut", "config a list", "tokenizer missing"):
        harm = partial(to_model, "father", name)
        yield Row(name, COMMANDS["delphi"], harm, ("father",))


def _out_with(name: str, content: str, folder: Path) -> None:
    (folder / "out").mkdir()
    put(name, content, folder / "out")


# --- places and options ---------------------------------------------------------------

PROBES: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON": ("A.jsonl", "what?\n", "A.jsonl line 1"),
    "a list": ("A.jsonl", "[]\n", "A.jsonl line 1"),
    "no completion": ("A.jsonl", '{"prompt": "x"}\n', "A.jsonl line 1 completion"),
    "a number": ("A.jsonl", '{"prompt": "x", "completion": 3}\n', "A.jsonl line 1"),
    "empty": ("A.jsonl", "", "A.jsonl"),
    "other bytes": ("A.txt", b"\xff\xfe", "A.txt UTF-8"),
    "nested deeply": ("A.jsonl", DEEP + "\n", "A.jsonl line 1"),
    "twice": ("math.txt", "one\n", "MATH"),
}


def place_rows() -> Iterator[Row]:
    """Yield bad probes, places of output, devices and other options."""
    for what, (name, content, words) in PROBES.items():
        harm = partial(put, f"probes/{name}", content)
        yield Row(f"probes {what}", COMMANDS["scan"], harm, tuple(words.split()))
    for what, name in (("of odd bytes", os.fsdecode(b"\xff.txt")), ("", "a\nb.txt")):
        harm = partial(put, f"probes/{name}", "a b c\n")
        yield Row(f"probes' name {what}", COMMANDS["scan"], harm, ("name", "rename"))
    harm = partial(put, "probes/X.jsonl", '{"prompt": "\\ud800", "completion": "2"}\n')
    yield Row("probes no text", COMMANDS["scan"], harm, ("X.jsonl", "line 1"))
    harm = partial(put, "probes/$\\frac$😀.txt", "a b c\n")
    yield Row("probes' odd name", COMMANDS["scan"], harm, code=0)
    harm = partial(fifo, "probes/MATH.jsonl")
    yield Row("probes a fifo", COMMANDS["scan"], harm, ("probes",))
    for command, option in (("scan", "--out"), ("static", "--out")):
        for what, harm in (
            ("a file", at("out", "mine")),
            ("a fifo", lambda folder: os.mkfifo(folder / "out")),
        ):
            yield Row(f"{option} {what}", COMMANDS[command], harm, ("out",))
    for what, place, words in (
        ("weights", "{S}/father/model.safetensors", "father weights"),
        ("a parent's config", "{S}/father/config.json", "config.json model"),
        ("a device", "/dev/full", "full"),
        ("a folder", "{S}/father", "father"),
        ("below a file", "{S}/table.csv/x.png", "table.csv"),
    ):
        line = COMMANDS["ratios"]
        code = 2 if what == "a folder" else 1
        for option in ("--out", "--plot"):
            if option == "--plot" and what in ("weights", "a parent's config"):
                words = place.split(".")[-1]  # no picture's name
            said = tuple(words.split())
            yield Row(
                f"{option} {what}", f"{line} {option} {place}", nothing, said, code
            )
    harm = lambda folder: (folder / "out.png").symlink_to("father/model.safetensors")  # noqa: E731
    line = f"{COMMANDS['ratios']} --plot {{S}}/out.png"
    yield Row("--plot a link to weights", line, harm, ("out.png", "link"))
    yield Row(
        "out a parent",
        "mergekit-yaml {S}/darwin.yml {S}/father --quiet",
        nothing,
        ("father",),
    )
    for what, more, words in (
        ("a device unknown", "--device quatsch", "--device quatsch"),
        ("no CUDA", "--device cuda", "--device cuda"),
        ("the meta device", "--device meta", "--device meta"),
    ):
        said = tuple(words.split())
        yield Row(what, f"{COMMANDS['scan']} {more}", nothing, said)
        line = COMMANDS["health"].replace("--no-probes", "--probes {S}/probes")
        yield Row(what, f"{line} {more}", nothing, said)
    for what, line, words in (
        ("a threshold unknown", "health --threshold nrm_high=2", "nrm_high norm_high"),
        ("a tensor unknown", "explain --explain lm_had", "lm_had lm_head"),
        ("a father nowhere", "nowhere", "nowhere"),
    ):
        if line == "nowhere":
            full = COMMANDS["static"].replace("{S}/father", "{S}/nowhere")
        elif line.startswith("health"):
            full = f"{COMMANDS['health']} {line.removeprefix('health ')}"
        else:
            full = COMMANDS["ratios"].replace("--json", line.removeprefix("explain "))
        yield Row(what, full, nothing, tuple(words.split()))


def taken(place: str, folder: Path) -> None:
    """Hold a lock as another run that is at work does: a folder, its lock, a file."""
    path = folder / place
    if path.name in ("out", ".out.part"):
        path.mkdir()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("4711")
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    _HELD.append(handle)


_HELD: list[int] = []


def run_taken(folder: Path) -> None:
    """Leave a run's folder in which another process is at work."""
    (folder / "out").mkdir()
    put(".mergekit-darwin-run", "", folder / "out")
    taken("out/lock", folder)


def taken_rows() -> Iterator[Row]:
    """Yield places where another run is at work: the second one is refused."""
    ratios = COMMANDS["ratios"]
    for command, place in (
        (COMMANDS["scan"], "out/.scan/lock"),
        (COMMANDS["delphi"], "out/lock"),
        (f"{ratios} --out {{S}}/t.json", ".t.json.part"),
        (f"{ratios} --plot {{S}}/t.png", ".t.png.part"),
        (COMMANDS["merge"], "out"),
        (COMMANDS["health"], "out"),
        (COMMANDS["refit"], ".out.part"),
    ):
        yield Row("two at once", command, partial(taken, place), ("in use",))
    yield Row("two at once", COMMANDS["evolve"], run_taken, ("in use", "4711"))


def rows() -> list[Row]:
    """Return the whole matrix."""
    return [
        *model_rows(),
        *document_rows(),
        *yaml_rows(),
        *source_rows(),
        *text_rows(),
        *evolve_rows(),
        *place_rows(),
        *taken_rows(),
    ]
