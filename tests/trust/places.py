"""More rows: tables and genomes as other programs write them, odd names of folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.trust.damage import MATRIX, WHOLE, header, put
from tests.trust.matrix import COMMANDS, Row, naming

_TABLE = "name,ratio\nlm_head.weight,0.25\n"
TABLES: dict[str, tuple[str | bytes, str]] = {
    "in UTF-16": (_TABLE.encode("utf-16"), "table.csv UTF-8"),
    "in Latin-1": (f"{_TABLE}é,0.5\n".encode("latin-1"), "table.csv UTF-8"),
    "of semicolons": (_TABLE.replace(",", ";"), "table.csv name ratio"),
    "of tabs": (_TABLE.replace(",", "\t"), "table.csv name ratio"),
    "of decimal commas": ('name,ratio\nlm_head.weight,"0,5"\n', "lm_head.weight 0,5"),
    "of digits in groups": ("name,ratio\nlm_head.weight,0_1\n", "lm_head.weight 0_1"),
    "of per cent": ("name,ratio\nlm_head.weight,50%\n", "lm_head.weight 50%"),
    "of spaces": ("name,ratio\n lm_head.weight ,0.5\n", "lm_head.weight"),
    "of capitals": (_TABLE.capitalize(), "table.csv name"),
    "without a header": ("lm_head.weight,0.5\n", "table.csv name ratio"),
    "with a comment": (f"# mine\n{_TABLE}", "table.csv name ratio"),
    "of a workbook": (b"PK\x03\x04" + bytes(40), "table.csv"),
    "with a field of 200,000": (f"name,ratio\n{'x' * 200_000},0.5\n", "table.csv"),
}
_GENOME = {"format": "mergekit-darwin/genome", "version": 1, "genes": {}}
GENOMES: dict[str, tuple[str | bytes, str]] = {
    "in UTF-16": (json.dumps(_GENOME).encode("utf-16"), "genome.json"),
    "with a mark": (b"\xef\xbb\xbf" + json.dumps(_GENOME).encode(), "genome.json"),
    "twice": (json.dumps(_GENOME) * 2, "genome.json"),
    "with a comment": (f"// mine\n{json.dumps(_GENOME)}", "genome.json"),
    "of version text": (json.dumps({**_GENOME, "version": "1"}), "version"),
    "of version true": (json.dumps({**_GENOME, "version": True}), "version"),
    "of a list": (json.dumps({**_GENOME, "genes": [0.3]}), "genes"),
    "of 1e400": ('{"genes": {"attn_ratio": 1e400}}', "attn_ratio"),
    "of block 40": (json.dumps({**_GENOME, "genes": {"block_40_ratio": 0.5}}), "40"),
    "of null": (json.dumps({**_GENOME, "genes": {"attn_ratio": None}}), "attn_ratio"),
}
GOOD_NAMES = {  # of the folder with everything in it
    "a space": "a b",
    "signs": "100%s {x} $y\\frac #'\"*[z]",
    "a picture": "\U0001f600",
    "a line end": "a\nb",
    "a dash": "-x",
    "an escape": "a\x1b[31mb",
    "a tag": "<b>x<|b>",
}
BAD_NAMES = {"a plus": ("a+b", "+"), "an at": ("a@b", "@")}
WORDS = {  # for a model: what a refusal says
    "a+b+c": "a+b+c",
    "a@b@c": "a@b@c",
    "{S}/mother/model.safetensors": "model.safetensors",
    "{S}/loop": "loop",
    "{S}/father+{S}/nowhere": "nowhere",
}
ROWS: dict[str, tuple[str, Any]] = {
    "a type in a list": ("dtype", ["F32"]),
    "a shape that is a number": ("shape", 3),
    "three offsets": ("data_offsets", [0, 1, 2]),
    "offsets back": ("data_offsets", [8, 0]),
}


def place_rows() -> Iterator[Row]:
    """Yield files of other programs and other worlds' names."""
    for what, (content, words) in TABLES.items():
        harm = naming("ratios", "table.csv", partial(put, "table.csv", content))
        yield Row(f"table {what}", COMMANDS["ratios"], harm, tuple(words.split()))
    for what, (content, words) in GENOMES.items():
        harm = naming("genome", "genome.json", partial(put, "genome.json", content))
        yield Row(f"genome {what}", COMMANDS["ratios"], harm, tuple(words.split()))
    for what, name in GOOD_NAMES.items():
        for command in ("ratios", "static", "merge", "health"):
            line = COMMANDS[command]
            full = command != "static"
            yield Row(f"{what} in names", line, _nothing, code=0, place=name, full=full)
    for what, (name, words) in BAD_NAMES.items():
        for command in ("static", "health"):
            said = (words, "Rename")
            yield Row(f"{what} in names", COMMANDS[command], _nothing, said, place=name)
    for model, words in WORDS.items():
        line = COMMANDS["static"].replace("{S}/father", model)
        yield Row(f"a model {model}", line, _loop, (words,))
    for what, (key, value) in ROWS.items():
        harm = partial(_indexed, key, value)
        yield Row(what, COMMANDS["static"], harm, ("mother", "header"))
    for file, command in (
        ("child/health.json", COMMANDS["health"].replace(" --out {S}/out", "")),
        ("child/health.png", COMMANDS["health"].replace(" --out {S}/out", "")),
        ("out/mds.png", COMMANDS["static"]),
        ("out/report.md", COMMANDS["delphi"]),
        ("out/samples.jsonl", COMMANDS["delphi"]),
    ):
        harm = partial(_foreign, file)
        yield Row(f"a foreign {file}", command, harm, (file.split("/")[-1],))


def _nothing(folder: Path) -> None:
    """Do no harm: the stage's name is what is tried."""


def _loop(folder: Path) -> None:
    os.symlink("loop", folder / "loop")


def _indexed(key: str, value: Any, folder: Path) -> None:
    """Write nonsense into a header behind an index: nobody else reads it."""
    mother = folder / "mother"

    def change(rows: dict[str, Any]) -> None:
        rows[MATRIX][key] = value

    header(change, mother)
    names = [name for name in _names(mother) if name != "__metadata__"]
    (mother / "model.safetensors").rename(mother / WHOLE)
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, WHOLE)}
    put("model.safetensors.index.json", json.dumps(content), mother)


def _names(folder: Path) -> list[str]:
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    return list(json.loads(data[8 : 8 + length]))


def _foreign(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    put(name, "mine", folder)
