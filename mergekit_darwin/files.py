"""JSON documents on disk, read through their pydantic schema, refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mergekit_darwin.errors import DarwinError

Document = TypeVar("Document", bound=BaseModel)


def read_document(
    file: Path, schema: type[Document], *, unreadable: str, unfit: str, advice: str = ""
) -> Document:
    """Return the document in a file.

    Raises DarwinError: unreadable and the system's reason in brackets, or unfit, the
    first key that does not fit, why, and the advice.
    """
    try:
        return schema.model_validate_json(file.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise DarwinError(f"{unreadable} ({reason}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DarwinError(f"{unfit}; {place}: {first['msg']}.{advice}") from None
