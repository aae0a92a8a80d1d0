"""How much chance there is in what is not to be guessed."""

from collections.abc import Iterable


def random_bits(numbers: Iterable[int]) -> int:
    """Return how many bits of the numbers are of chance, and do not follow from the others by exclusive-or.

    It is how many of the numbers are no exclusive-or of others. For `n` random bits that is `n` but once in
    2**36 times, if there are 36 numbers more than that; padding and repetition add nothing to it.
    """
    independent: list[int] = []
    for number in numbers:
        for other in independent:
            number = min(number, number ^ other)
        if number:
            independent.append(number)
    return len(independent)
