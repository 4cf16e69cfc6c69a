"""Rules about paths in .gitignore's syntax, as tasks and experiments write them.

Unlike git, a later `!rule` takes files back from below a folder that an earlier rule names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pathspec import GitIgnoreSpec
from pydantic import AfterValidator


def _refuse_bad_rule(rule: str) -> str:
    try:
        GitIgnoreSpec.from_lines([rule])
    except (ValueError, re.error) as error:
        raise ValueError(f"no pattern in .gitignore's syntax: {error}") from error
    return rule


PathRule = Annotated[str, AfterValidator(_refuse_bad_rule)]
"""One pattern, refused on reading if it is none."""


def is_rule(text: str) -> bool:
    """Whether a line is a pattern that can be read; git passes over those that cannot."""
    try:
        _refuse_bad_rule(text)
    except ValueError:
        return False
    return True


def matching(patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that patterns in .gitignore's syntax name."""
    spec = GitIgnoreSpec.from_lines(patterns)
    return {path for path in paths if spec.match_file(path)}
