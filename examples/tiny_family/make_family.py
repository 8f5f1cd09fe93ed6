"""Makes the tiny family: items, a base model, and two parents fine-tuned from it.

    python make_family.py [FOLDER]

The default folder is the one this script is in. Everything is seeded; see README.md.
"""

import json
import multiprocessing
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from skills import FACTS, RULES, SKILLS, Item, collect, skill_of
from tokenizer import byte_tokenizer
from train import accuracy, answer_loss, batches, drift, new_model, train
from transformers import LlamaForCausalLM

SEED = 1
BATCH = 64
SIDE_BATCH = 48  # of a parent's own items, and again of the other skills'


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: weight per subskill, steps, peak learning rate.

    A parent also learns to stay as the base on the subskills that are not its own, with
    weight `stay`; without it the two task vectors destroy each other's skills.
    """

    name: str
    mixture: dict[str, float]
    steps: int
    peak: float
    seed: int
    stay: float = 0.0

    def others(self) -> dict[str, float]:
        """Return the weights of the subskills that are not the model's own."""
        weights = {**dict.fromkeys(RULES, 1.0), **dict.fromkeys(FACTS, 3.0)}
        return {n: w for n, w in weights.items() if n not in self.mixture}


# A little of everything, and well only the easiest of each skill.
BASE_MIXTURE = {
    **dict.fromkeys((*RULES, *FACTS), 0.05),
    "cycle": 1.0,
    "concat": 1.0,
    "largest": 1.2,
    "known_facts": 0.8,
    "particle": 0.7,
    "plural": 0.4,
}
FATHER_MIXTURE = {
    "earliest": 1.0,
    "latest": 1.0,
    "odd_one": 1.0,
    "cycle": 0.3,
    "add_digit": 1.6,
    "subtract_digit": 2.0,
    "smallest": 1.0,
    "largest": 0.3,
    "ending": 1.2,
    "particle": 0.5,
}
MOTHER_MIXTURE = {
    "index": 1.6,
    "reverse": 1.0,
    "upper": 1.0,
    "concat": 0.3,
    "new_facts": 4.5,
    "past": 0.6,
    "plural": 0.5,
}
BASE = Recipe("base", BASE_MIXTURE, 700, 2e-3, 1)
PARENTS = (
    Recipe("father", FATHER_MIXTURE, 1000, 7e-4, 2, stay=1.5),
    Recipe("mother", MOTHER_MIXTURE, 1000, 7e-4, 3, stay=1.5),
)


def all_items() -> dict[str, dict[str, list[Item]]]:
    """Return every subskill's items by split: 240 search and 480 heldout a skill."""
    rule = {"train": 6000, "search": 60, "heldout": 120}
    sizes = {
        "known_facts": {"train": 6000, "search": 40, "heldout": 80},
        "new_facts": {"train": 6000, "search": 200, "heldout": 400},
    }
    return {name: collect(name, sizes.get(name, rule), SEED) for name in names()}


def names() -> list[str]:
    """Return all subskills."""
    return [*RULES, *FACTS]


def write_items(folder: Path, items: dict[str, dict[str, list[Item]]]) -> None:
    """Write items/<skill>/search.jsonl and heldout.jsonl.

    Subskills are spread evenly, so that the first items of a file are a fair sample,
    but in no fixed turn, so that every second item is one as well.
    """
    rng = random.Random(SEED)
    for skill in SKILLS:
        (folder / "items" / skill).mkdir(parents=True, exist_ok=True)
        for split in ("search", "heldout"):
            mine = [items[name][split] for name in names() if skill_of(name) == skill]
            ranked = [
                ((place + rng.random()) / len(box), item)
                for box in mine
                for place, item in enumerate(box)
            ]
            ranked.sort(key=lambda pair: pair[0])
            lines = [json.dumps(x.record(), ensure_ascii=False) for _, x in ranked]
            path = folder / "items" / skill / f"{split}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the model in bfloat16 with its tokenizer; the model becomes bfloat16."""
    model.bfloat16().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def make(recipe: Recipe, folder: Path, threads: int) -> None:
    """Train one model, from the base unless it is the base, and save it."""
    torch.set_num_threads(threads)
    items = all_items()
    pool = {name: splits["train"] for name, splits in items.items()}
    if recipe.name == BASE.name:
        model = new_model(SEED)
        stream = batches(recipe.mixture, pool, BATCH, recipe.seed)
        loss = train(
            model, lambda: answer_loss(model, next(stream)), recipe.steps, recipe.peak
        )
    else:
        model, loss = fine_tune(recipe, folder / "base", pool)
    save(model, folder / recipe.name)
    scores = {
        skill: [x for n in names() if skill_of(n) == skill for x in items[n]["search"]]
        for skill in SKILLS
    }
    model.float()
    shown = {skill: round(accuracy(model, x), 3) for skill, x in scores.items()}
    print(f"{recipe.name}: last loss {loss:.3f}, search accuracy {shown}", flush=True)


def fine_tune(
    recipe: Recipe, base_folder: Path, pool: dict[str, list[Item]]
) -> tuple[LlamaForCausalLM, float]:
    """Return a parent fine-tuned from the base, and its last loss."""
    model, base = (
        LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32).eval()
        for _ in range(2)
    )
    own = batches(recipe.mixture, pool, SIDE_BATCH, recipe.seed)
    others = batches(recipe.others(), pool, SIDE_BATCH, recipe.seed + 10)

    def loss_of() -> torch.Tensor:
        learnt = answer_loss(model, next(own))
        return learnt + recipe.stay * drift(model, base, next(others))

    return model, train(model, loss_of, recipe.steps, recipe.peak)


def main() -> None:
    """Write the items, train the base, then both parents side by side."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    started = time.time()
    write_items(folder, all_items())
    # Each model has a process of its own, and the parents one thread each: two threads
    # that wait for each other are slower than two models trained side by side.
    context = multiprocessing.get_context("spawn")
    for group, threads in (((BASE,), 2), (PARENTS, 1)):
        workers = [
            context.Process(target=make, args=(r, folder, threads)) for r in group
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit("training failed")
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
