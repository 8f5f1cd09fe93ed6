"""A model opened by transformers: the one opener of all commands."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mergekit_darwin.errors import DarwinError, about, reason
from mergekit_darwin.models.checkpoint import open_checkpoint
from mergekit_darwin.models.checks import check_loaded
from mergekit_darwin.models.stream import DiskWeights, disk_weights, empty_model
from mergekit_darwin.talk import DTYPES, LOADING, ProbeOptions, silent

if TYPE_CHECKING:
    from mergekit.options import MergeOptions


@dataclass(frozen=True)
class OpenModel:
    """A model ready to run; disk is None if all its weights are in memory."""

    name: str
    model: nn.Module
    tokenizer: Any
    device: str
    disk: DiskWeights | None = None

    @contextlib.contextmanager
    def loaded(self, path: str) -> Iterator[None]:
        """Hold the weights of the module at path while the context lasts."""
        if self.disk is None:
            yield
            return
        self.disk.load(path)
        try:
            yield
        finally:
            self.disk.drop(path)


def check_device(name: str) -> None:
    """Refuse a device that torch does not find on this machine.

    Raises DarwinError naming the devices that are there. `meta` computes nothing.
    """
    try:
        if torch.device(name).type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.ones(1, device=name).item()
    except Exception as error:
        raise DarwinError(
            f"--device must be a device of this machine, one of"
            f" {', '.join(_present())}; got {name!r} ({reason(error, 120)})."
        ) from error


def _present() -> list[str]:
    if not hasattr(torch, "accelerator"):  # before torch 2.6
        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    kind = torch.accelerator.current_accelerator()
    if kind is None or not torch.accelerator.is_available():
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", *(f"{kind.type}:{number}" for number in range(count))]


def open_model(name: str, options: ProbeOptions) -> OpenModel:
    """Return a model and its tokenizer, ready for inference.

    Raises DarwinError if either is missing or does not fit the other's files.
    """
    if options.dtype not in DTYPES:
        raise DarwinError(
            f"dtype must be one of {', '.join(DTYPES)}; got {options.dtype!r}."
        )
    checkpoint = open_checkpoint(name, merge_options(options))
    remote = options.trust_remote_code
    tokenizer = _tokenizer(name, checkpoint.path, options)  # imports transformers
    dtype, device = getattr(torch, options.dtype), options.device
    with silent("transformers"):
        config = read_config(name, checkpoint.path, remote)
        if options.stream:
            model = first_class(
                name,
                config,
                lambda kind: empty_model(kind, config, dtype, device, remote),
            )
            disk = disk_weights(name, model, checkpoint.path, dtype, device)
        else:
            model, disk = load_model(name, checkpoint.path, dtype, remote), None
            model.to(device)
        if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # grouped kernels have no float64
    return OpenModel(name, model, tokenizer, device, disk)


def load_model(name: str, path: str, dtype: Any = "auto", remote: bool = False) -> Any:
    """Return the model in a folder with all its weights, for inference, on the CPU.

    dtype is torch's or "auto", the files' own. Raises DarwinError if transformers has
    no language model for it, or weights are missing or of another shape.
    """
    config = read_config(name, path, remote)

    def load(kind: Any) -> tuple[Any, Any]:
        found: tuple[Any, Any] = kind.from_pretrained(
            path,
            dtype=dtype,
            trust_remote_code=remote,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_loaded names them
        )
        return found

    model, info = first_class(name, config, load)
    check_loaded(name, info)
    return model.eval().requires_grad_(False)


def fresh_model(name: str, config: Any, dtype: Any, remote: bool = False) -> Any:
    """Return a model of a config with weights of no meaning, to be filled."""

    def build(kind: Any) -> Any:
        return kind.from_config(config, dtype=dtype, trust_remote_code=remote)

    return first_class(name, config, build).eval().requires_grad_(False)


def read_config(name: str, path: str, remote: bool = False) -> Any:
    """Return a model's config. Raises DarwinError if transformers cannot read it."""
    from transformers import AutoConfig

    with about(f"{name} must have a config.json that transformers reads"):
        return AutoConfig.from_pretrained(path, trust_remote_code=remote)


def auto_classes(config: Any) -> Sequence[Any]:
    """Return transformers' auto classes of language models, the likeliest first."""
    import transformers
    from mergekit.common import get_auto_cls

    names = getattr(config, "architectures", None) or ["ForCausalLM"]
    with silent(""):  # it wonders about names that end in ForConditionalGeneration
        own = get_auto_cls(names[0])
    several: list[Any] = [transformers.AutoModelForImageTextToText]
    several.append(transformers.AutoModelForSeq2SeqLM)
    if "ForConditionalGeneration" in names[0]:
        return [*several, own]
    return [own, *several, transformers.AutoModelForMaskedLM]


def ties_head(config: Any, remote: bool = False) -> bool:
    """Return whether transformers ties the LM head to the embeddings, by the config.

    The model is built without weights, as only its class knows what its config ties.
    A model without a head ties nothing.
    """

    def build(kind: Any) -> Any:
        own = copy.deepcopy(config)  # a config takes on what is built from it
        return empty_model(kind, own, torch.float32, "meta", remote)

    model = first_class(type(config).__name__, config, build)
    head = model.get_output_embeddings()
    held = {id(tensor) for tensor in head.parameters()} if head is not None else set()
    named = model.named_parameters(remove_duplicate=False)
    names = {name for name, tensor in named if id(tensor) in held}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return bool(names & {*tied.keys(), *tied.values()})


def first_class(name: str, config: Any, make: Any) -> Any:
    """Return what the first auto class that knows a config makes of it."""
    reasons = []
    for kind in auto_classes(config):
        try:
            return make(kind)
        except Exception as error:  # as above; the next class may do
            reasons.append(reason(error))
    known = [r for r in reasons if not r.startswith("Unrecognized configuration class")]
    why = (known or reasons)[0]
    raise DarwinError(f"{name} cannot be opened as a language model ({why}).")


def merge_options(options: ProbeOptions) -> MergeOptions:
    """Return mergekit's options for loading the same models."""
    from mergekit.options import MergeOptions

    return MergeOptions(**{name: getattr(options, name) for name in LOADING})


def _tokenizer(name: str, path: str, options: ProbeOptions) -> Any:
    from transformers import AutoTokenizer

    places = [path]
    if "+" in name:  # a merged LoRA's folder may lack the tokenizer of its model
        places.append(name.split("+")[0])
    for place in places:
        try:
            return AutoTokenizer.from_pretrained(
                place, trust_remote_code=options.trust_remote_code
            )
        except Exception as error:
            why = reason(error)
    raise DarwinError(
        f"{name} must have a tokenizer for its probes; none can be loaded from"
        f" {path} ({why}). Copy the tokenizer's files there."
    )
