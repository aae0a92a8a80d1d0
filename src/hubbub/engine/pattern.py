"""Patterns of room names and paths: ``chat/{name}``."""

import re

from ..errors import ConfigurationError

_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Pattern:
    """Names of parts divided by ``/``; a part in braces matches any one part and names it."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts = text.split("/")
        self._parts: list[str | None] = []
        names: list[str] = []
        for part in parts:
            named = _PART.fullmatch(part)
            if named is None and ("{" in part or "}" in part):
                raise ConfigurationError(
                    f"{text!r}: a part is either text or one name in braces, such as 'chat/{{name}}'; "
                    f"{part!r} is neither."
                )
            if named is not None and named[1] in names:
                raise ConfigurationError(f"{text!r} has two parts with the name {named[1]!r}.")
            self._parts.append(None if named else part)
            if named is not None:
                names.append(named[1])
        self.names = tuple(names)
        self._expression = re.compile(
            "/".join("([^/]+)" if part is None else re.escape(part) for part in self._parts)
        )

    def match(self, text: str) -> tuple[str, ...] | None:
        """Return the values of the named parts, or None if `text` is not of this pattern."""
        matched = self._expression.fullmatch(text)
        return matched.groups() if matched else None

    def fill(self, values: dict[str, str]) -> str:
        """Return the text with these values; :exc:`ValueError` if they don't fit."""
        if set(values) != set(self.names):
            wanted = ", ".join(self.names) or "nothing"
            raise ValueError(f"{self.text!r} takes {wanted}, not {', '.join(values) or 'nothing'}.")
        for name, value in values.items():
            if not value or "/" in value:
                raise ValueError(f"{name}={value!r}: a part of a name is not empty and has no '/'.")
        rest = iter(self.names)
        return "/".join(values[next(rest)] if part is None else part for part in self._parts)

    def overlaps(self, other: "Pattern") -> bool:
        """Tell whether some text is of both patterns."""
        # What is in braces is never empty.
        return len(self._parts) == len(other._parts) and all(
            mine == theirs or (mine is None and theirs != "") or (theirs is None and mine != "")
            for mine, theirs in zip(self._parts, other._parts, strict=True)
        )
