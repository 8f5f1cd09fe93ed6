"""Child, parents and base, opened layer by layer and found to fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.models.checkpoint import (
    Checkpoint,
    open_checkpoint,
    refuse_integers,
)
from mergekit_darwin.models.opened import merge_options, open_model
from mergekit_darwin.refit.texts import Texts
from mergekit_darwin.scan.decoder import Decoder, open_decoder
from mergekit_darwin.talk import ProbeOptions


@dataclass(frozen=True)
class Family:
    """Decoders by role (child, father, mother, base if given), and their files."""

    decoders: Mapping[str, Decoder]
    checkpoints: Mapping[str, Checkpoint]

    @property
    def child(self) -> Decoder:
        """The child."""
        return self.decoders["child"]

    @property
    def parents(self) -> dict[str, Decoder]:
        """Father and mother."""
        return {role: self.decoders[role] for role in ("father", "mother")}

    @contextmanager
    def loaded(self, layer: int) -> Iterator[None]:
        """Hold one layer of all models while the context lasts."""
        with ExitStack() as stack:
            for decoder in self.decoders.values():
                stack.enter_context(decoder.source.loaded(f"{decoder.path}.{layer}"))
            yield


def open_family(models: Mapping[str, str], options: ProbeOptions) -> Family:
    """Return the models, by role, opened. Raises DarwinError if they do not fit."""
    loading = merge_options(options)
    checkpoints = {role: open_checkpoint(m, loading) for role, m in models.items()}
    for checkpoint in checkpoints.values():
        refuse_integers(checkpoint)
    if not checkpoints["child"].safetensors:
        raise DarwinError(
            f"A child must be stored as safetensors to be refitted; {models['child']}"
            " has other files. Save it again with safe_serialization."
        )
    decoders = {
        role: open_decoder(open_model(m, options)) for role, m in models.items()
    }
    child = _shapes(decoders["child"])
    for role, decoder in decoders.items():
        other = _shapes(decoder)
        for name in sorted(child.keys() | other.keys()):
            if child.get(name) != other.get(name):
                raise DarwinError(
                    f"Layers of child and {role} must have the same weights; {name} is"
                    f" {child.get(name) or 'missing'} in {models['child']} and"
                    f" {other.get(name) or 'missing'} in {models[role]}."
                )
    return Family(decoders, checkpoints)


def _shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    return {
        f"{decoder.path}.{layer}.{name}": tuple(weight.shape)
        for layer, module in enumerate(decoder.layers)
        for name, weight in module.named_parameters()
    }


def check_words(family: Family, texts: Texts) -> None:
    """Refuse models that read the texts as different tokens. Raises DarwinError."""
    probes = (*texts.father, *texts.mother)
    said = [x.prompt + x.completion for p in probes for x in p.items[:8]]
    said += [item.completion for item in texts.watch[:8]]
    wanted = family.child.source.tokenizer(said)["input_ids"]
    for role, decoder in family.decoders.items():
        for text, ids, other in zip(
            said, wanted, decoder.source.tokenizer(said)["input_ids"], strict=True
        ):
            if list(ids) != list(other):
                raise DarwinError(
                    f"Child and {role} must read a text as the same tokens;"
                    f" {text[:40]!r} is {len(ids)} and {len(other)} of them, or others."
                    " Refit a child whose tokenizer is its parents'."
                )
