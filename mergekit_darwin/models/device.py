"""The device that an option names, tried before anything is loaded for it."""

from __future__ import annotations

import torch

from mergekit_darwin.errors import DarwinError, reason


def check_device(name: str, option: str = "--device") -> None:
    """Refuse a device that torch does not find on this machine, by its option.

    Raises DarwinError naming the devices that are there. `meta` computes nothing.
    """
    try:
        if torch.device(name).type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.ones(1, device=name).item()
    except Exception as error:
        raise DarwinError(
            f"{option} must be a device of this machine, one of"
            f" {', '.join(_present())}; got {name!r} ({reason(error, 120)})."
        ) from error


def _present() -> list[str]:
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", *(f"{kind.type}:{number}" for number in range(count))]
