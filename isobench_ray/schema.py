"""What every model of this package shares: strictness, canonical JSON, hashes, stored time.

Two kinds of model. `UserModel`: files that people write; unknown keys are errors. `RecordModel`:
files that the program writes; unknown keys are ignored, so that an older version reads what a newer
one wrote, and `schema_version` says how to upgrade.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

RECORD_SCHEMA_VERSION = 1


class UserModel(BaseModel):
    """A frozen model of something that a user writes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


class RecordModel(BaseModel):
    """A frozen model of something that the program stores."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def to_json(self) -> bytes:
        """The stored form: indented UTF-8 JSON with a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN; equal values give equal bytes.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_hex(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def identity_hash(parts: dict[str, Any]) -> str:
    """Identity of what `parts` say: sha256 over canonical JSON, models without their defaults.

    A part that is None and a field that keeps its default value do not take part, so adding either
    leaves every older identity as it was.
    """
    said = {key: _without_defaults(part) for key, part in parts.items() if part is not None}
    return sha256_hex(canonical_json(said))


def _without_defaults(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    if isinstance(value, dict):
        return {str(key): _without_defaults(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(item) for item in value]
    return value


def utc_now() -> datetime:
    """The current time in UTC, to the microsecond: the form in which times are stored."""
    return datetime.now(UTC)


def suggest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """The known word that a mistyped one is near to, as the end of a message; else nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
