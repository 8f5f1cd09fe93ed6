"""The header-only check says what a merge of these files would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.config import MergeConfiguration
from safetensors.torch import load_file, save_file

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.findings import Finding, Layout, Model, Setup, renamed_prefix
from mergekit_darwin.merge.fit import check_fit, is_tied
from mergekit_darwin.merge.headers import fit_of
from mergekit_darwin.models.checkpoint import TensorHeader
from tests.merging import darwin, merge
from tests.tiny import nudged, tiny_gemma4, tiny_llama, tiny_qwen3

SMALL = {
    "embed_tokens.weight": (10, 4),
    "layers.0.q_proj.weight": (4, 4),
    "layers.1.q_proj.weight": (4, 4),
    "norm.weight": (4,),
    "lm_head.weight": (10, 4),
}


def model(
    role: str, dtype: str = "bfloat16", **changes: tuple[int, ...] | None
) -> Model:
    """Return a model of SMALL's tensors, some changed or (None) left out."""
    shapes = {**SMALL, **changes}
    headers = {
        name: TensorHeader(name, dtype, shape)
        for name, shape in shapes.items()
        if shape is not None
    }
    return Model(role, headers)


def header(shape: tuple[int, ...]) -> TensorHeader:
    """Return a header of this shape."""
    return TensorHeader("any", "bfloat16", shape)


def lines(found: Iterable[Finding]) -> list[str]:
    """Return the findings as lines of severity, subject and text."""
    return [finding.line() for finding in found]


def stops(found: Iterable[Finding]) -> set[str]:
    """Return the subjects of what stops the merge."""
    return {row.rule for row in found if row.severity == "stops"}


def test_siblings_fit_in_one_line() -> None:
    found = check_fit([model("Father"), model("Mother"), model("base")])
    assert lines(found) == [
        "ok    tensors: 5 in the child, 5 of them in all 3 models; layers: layers x 2"
    ]


def test_a_tensor_one_parent_lacks_is_the_others() -> None:
    found = check_fit([model("Father"), model("Mother", **{"norm.weight": None})])
    assert lines(found)[0] == (
        "note  missing: 1 tensor not in the Mother: 'norm.weight'"
        " -> the child gets the Father's, bit for bit"
    )
    found = check_fit([model("Father", **{"norm.weight": None}), model("Mother")])
    assert "1 tensor not in the Father" in lines(found)[0]
    assert "the child gets the Mother's" in lines(found)[0]


def test_a_tensor_the_base_lacks_has_the_father_as_its_base() -> None:
    base = model("base", **{"norm.weight": None})
    found = check_fit([model("Father"), model("Mother"), base])
    assert (
        "not in the base: 'norm.weight' -> the Father is their base" in lines(found)[0]
    )
    assert stops(found) == set()


def test_what_mergekit_requires_stops_and_what_it_ignores_is_named() -> None:
    father, mother = model("Father"), model("Mother", **{"rotary.inv_freq": (2,)})
    layout = Layout(
        names=(*SMALL, "extra.bias"),
        required=frozenset({"extra.bias"}),
        lacks={"Father": frozenset(), "Mother": frozenset({"extra.bias"})},
        read={"Father": frozenset(SMALL), "Mother": frozenset(SMALL)},
    )
    first, second, *_ = lines(check_fit([father, mother], layout))
    assert first.startswith("stops missing: 1 tensor not in the Mother: 'extra.bias'")
    assert "mergekit requires them" in first
    assert second.startswith("note  extra: 1 tensor of the Mother beyond what")


def test_depths_stop_with_one_line_and_no_list_of_the_missing() -> None:
    deeper = {f"layers.{i}.q_proj.weight": (4, 4) for i in range(2, 9)}
    found = check_fit([model("Father"), model("Mother", **deeper)])
    assert lines(found) == [
        "stops depth: layers has 2 layers in the Father, 9 in the Mother -> cut the"
        " deeper one with slices in a merge before"
    ]


def test_vocabularies_stop_unless_a_tokenizer_is_set() -> None:
    sizes = {"embed_tokens.weight": (12, 4), "lm_head.weight": (12, 4)}
    mother = model("Mother", **sizes)
    (line,) = lines(check_fit([model("Father"), mother]))
    assert line.startswith(
        "stops vocabulary: 10 tokens in the Father, 12 in the Mother"
    )
    assert line.endswith("add  tokenizer: {source: base}  to align the rows")
    found = check_fit([model("Father"), mother], setup=Setup(resizes=True))
    assert stops(found) == set() and found[0].rule == "vocabulary"


def test_other_shapes_stop_even_with_a_tokenizer() -> None:
    mother = model("Mother", **{"layers.1.q_proj.weight": (8, 4)})
    found = check_fit([model("Father"), mother], setup=Setup(resizes=True))
    assert stops(found) == {"shape"}
    assert "is [4, 4] in the Father, [8, 4] in the Mother" in found[0].line()


def test_types_that_differ_are_promoted_and_float8_stops() -> None:
    found = check_fit([model("Father"), model("Mother", "float32")])
    assert found[0].line() == (
        "note  dtype: the Father bfloat16, the Mother float32 -> tensors that differ"
        " are promoted to the wider type"
    )
    found = check_fit(
        [model("Father"), model("Mother", "float32")], setup=Setup(dtype="float16")
    )
    assert found[0].effect == "all are read as float16 (dtype)"
    assert stops(check_fit([model("Father"), model("Mother", "float8_e4m3fn")])) == {
        "dtype"
    }


@pytest.mark.parametrize(
    ("tied", "config_of", "effect"),
    [
        ("Mother", "Father", "the Mother's embeddings stand in for its head"),
        ("Father", "Father", "models load the embeddings in its place"),
        ("Father", None, "follows the config mergekit copies"),
    ],
)
def test_a_tied_head_against_a_free_one_says_what_becomes_of_it(
    tied: str, config_of: str | None, effect: str
) -> None:
    models = {
        role: model(role, **({"lm_head.weight": None} if role == tied else {}))
        for role in ("Father", "Mother")
    }
    found = check_fit([*models.values()], setup=Setup(config_of=config_of))
    (head,) = (row for row in found if row.rule == "head")
    assert f"the {tied} ties its LM head" in head.found and effect in head.effect


def test_whether_a_head_is_tied_is_the_configs_word_before_the_names() -> None:
    free = model("Father")
    assert not is_tied(free)
    for config in (
        {"tie_word_embeddings": True},
        {"text_config": {"tie_word_embeddings": True}},
    ):
        assert is_tied(Model(free.role, free.headers, config))


def test_counters_are_listed_where_they_agree_and_stop_where_not() -> None:
    models = [model("Father"), model("Mother")]
    same = check_fit(models, setup=Setup(counters={"steps": True}))
    assert lines(same)[0] == (
        "note  counters: 1 tensor of integers: 'steps' -> copied from the Father"
    )
    found = check_fit(models, setup=Setup(counters={"steps": True, "ids": False}))
    assert stops(found) == {"counters"} and "'ids'" in lines(found)[0]


def test_a_tensor_that_only_the_base_has_is_the_bases() -> None:
    lack = {"norm.weight": None}
    father, mother = model("Father", **lack), model("Mother", **lack)
    layout = Layout(
        names=tuple(SMALL),
        required=frozenset(),
        lacks={
            "Father": frozenset(lack),
            "Mother": frozenset(lack),
            "base": frozenset(),
        },
        read={role: frozenset(SMALL) for role in ("Father", "Mother", "base")},
    )
    found = check_fit([father, mother, model("base")], layout)
    assert "only in the base: 'norm.weight' -> the child gets the base's" in str(
        lines(found)
    )


def test_names_with_nothing_in_common_stop() -> None:
    mother = Model("Mother", {"h.0.c_attn.weight": header((12, 4))})
    found = check_fit([model("Father"), mother])
    assert stops(found) == {"names"} and "'h.0.c_attn.weight' in the Mother" in str(
        found
    )


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "text."])
def test_a_renamed_prefix_is_found_among_other_differences(prefix: str) -> None:
    left = {f"model.{name}": header(shape) for name, shape in SMALL.items()}
    right = {name.replace("model.", prefix, 1): row for name, row in left.items()}
    right["tower.layers.0.q_proj.weight"] = header((4, 4))
    if prefix == "model.":
        assert renamed_prefix(left, right) is None
        return
    old, new, count = renamed_prefix(left, right) or ("", "", 0)
    assert count == len(SMALL)
    assert {name.replace(old, new, 1) for name in left} <= set(right)


def test_tensors_of_other_shape_are_no_renaming() -> None:
    left = {"a.layers.0.q.weight": header((4, 4))}
    right = {"b.layers.0.q.weight": header((8, 8))}
    assert renamed_prefix(left, right) is None


def test_a_few_alike_among_many_are_no_renaming() -> None:
    left = {f"a.layers.{i}.q.weight": header((4, 4)) for i in range(9)}
    right = {f"c.layers.{i}.k.weight": header((4, 4)) for i in range(9)}
    right["b.layers.0.q.weight"] = header((4, 4))
    assert renamed_prefix(left, right) is None


Maker = Callable[[Path], tuple[Path, Path]]


def _rewritten(change: Callable[[str], str | None]) -> Callable[[Path], Path]:
    """Return a change of a checkpoint's names; None drops the tensor."""

    def rewrite(folder: Path) -> Path:
        file = folder / "model.safetensors"
        named = {change(name): tensor for name, tensor in load_file(file).items()}
        kept = {name: tensor for name, tensor in named.items() if name is not None}
        save_file(kept, file, metadata={"format": "pt"})
        return folder

    return rewrite


def _llamas(**change: Any) -> Maker:
    return lambda root: (
        tiny_llama(root / "father", 1),
        tiny_llama(root / "mother", 2, **change),
    )


def _cut_llama(change: Callable[[str], str | None]) -> Maker:
    return lambda root: (
        tiny_llama(root / "father", 1),
        _rewritten(change)(tiny_llama(root / "mother", 2)),
    )


def _gemmas(change: Callable[[str], str | None]) -> Maker:
    def make(root: Path) -> tuple[Path, Path]:
        father = tiny_gemma4(root / "father", 1, 6, vision_layers=2)
        return father, _rewritten(change)(nudged(father, root / "mother", 2))

    return make


def _no_vision(name: str) -> str | None:
    return None if "vision" in name else name


def _nested(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1)


CASES: dict[str, tuple[Maker, set[str], str]] = {
    "siblings": (_llamas(), set(), "21 of them in all 2 models"),
    "dtype": (_llamas(dtype=torch.float16), set(), "the Mother float16"),
    "tied": (_llamas(tied=True), set(), "the Mother ties its LM head"),
    "depth": (_llamas(layers=3), {"depth"}, "2 layers in the Father, 3 in the"),
    "vocabulary": (_llamas(vocab_size=264), {"vocabulary"}, "260 tokens in the"),
    "shape": (_llamas(hidden=64), {"shape"}, "these models cannot be merged"),
    "renamed": (_cut_llama(_nested), {"renamed prefix"}, "20 tensors named model.*"),
    "required": (
        _cut_llama(lambda name: None if name == "model.norm.weight" else name),
        {"missing"},
        "1 tensor not in the Mother: 'model.norm.weight'",
    ),
    "vision": (_gemmas(_no_vision), set(), "31 tensors not in the Mother"),
    "kinds": (
        lambda root: (
            tiny_llama(root / "father", 1),
            tiny_qwen3(root / "mother", 2, layers=2),
        ),
        {"architecture"},
        "Must specify --allow-crimes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_stops_here_stops_the_merge_and_what_passes_merges(
    case: str, tmp_path: Path
) -> None:
    make, expected, text = CASES[case]
    father, mother = make(tmp_path)
    config = darwin({"father": str(father), "mother": str(mother)}, "father")
    found = fit_of(MergeConfiguration.model_validate(config))
    assert stops(found) - {"shape", "depth"} == expected - {"shape", "depth"}
    assert expected <= stops(found)
    assert text in "\n".join(lines(found))
    if not expected:
        assert merge(config, tmp_path / "child", write_model_card=False)
        return
    with pytest.raises((DarwinError, RuntimeError, ValueError)):
        merge(config, tmp_path / "child", write_model_card=False)


def test_a_base_of_its_own_is_checked_too(tmp_path: Path) -> None:
    father, mother = _llamas()(tmp_path)
    base = tiny_llama(tmp_path / "base", 3, layers=3)
    paths = {"father": str(father), "mother": str(mother), "base": str(base)}
    found = fit_of(MergeConfiguration.model_validate(darwin(paths)))
    assert "2 layers in the Father, 3 in the base" in lines(found)[0]


def test_a_missing_base_model_is_noted(tmp_path: Path) -> None:
    father, mother = _llamas()(tmp_path)
    config = darwin({"father": str(father), "mother": str(mother)}, None)
    found = fit_of(MergeConfiguration.model_validate(config))
    assert any("there is no base_model" in line for line in lines(found))


def test_roles_of_slices_and_a_model_that_is_not_there(tmp_path: Path) -> None:
    father, mother = map(str, _llamas()(tmp_path))

    def config(*models: str) -> MergeConfiguration:
        sources = [{"model": path, "layer_range": [0, 2]} for path in models]
        return MergeConfiguration.model_validate(
            {"merge_method": "darwin_v6", "slices": [{"sources": sources}]}
        )

    assert stops(fit_of(config(father, mother))) == set()
    with pytest.raises(DarwinError, match="exactly two parents"):
        fit_of(config(father))
    with pytest.raises(DarwinError, match="must be a folder"):
        fit_of(config(father, str(tmp_path / "none")))
