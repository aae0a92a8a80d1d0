"""Which of some media types a client prefers (RFC 9110 section 12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str], *, wildcards: bool = False) -> str | None:
    """Return the one of the `offered` media types that an ``Accept`` header likes best; None if it has none.

    Of those it likes alike, it is the one that it names first. Ranges count where `wildcards` do: a client
    that takes everything has not asked for a stream.
    """
    best: tuple[float, str] | None = None
    for part in accept.lower().split(","):
        named, *parameters = [piece.strip() for piece in part.split(";")]
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(value.strip())
        for media in offered:
            fits = named == media or (wildcards and named in ("*/*", media.partition("/")[0] + "/*"))
            if fits and weight > (0.0 if best is None else best[0]):
                best = weight, media
    return None if best is None else best[1]


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
