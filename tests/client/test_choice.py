"""Which line comes next: a model of what has been seen of each, beside the choice."""

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hubbub.client.backoff import HELD
from hubbub.client.choice import SHORT_LIVES, Choice

LINES = 4
NUMBERS = strategies.integers(0, LINES - 1)


class Model(RuleBasedStateMachine):
    """Attempts, each of which finds some lines to work; and lives of lines, short or long."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = Choice(LINES)
        self.used = 0
        self.lives: list[list[bool]] = [[] for _ in range(LINES)]
        """Of each line, whether it held, each time that it was lost without a word."""

    def flaps(self, line: int) -> bool:
        last = self.lives[line][-SHORT_LIVES:]
        return len(last) == SHORT_LIVES and not any(last)

    @rule(working=strategies.sets(NUMBERS))
    def attempt(self, working: set[int]) -> None:
        tried = []
        for line in self.choice.order():
            tried.append(line)
            if line in working:
                self.choice.opened(line)
                self.used = line
                break
        if not working:
            assert sorted(tried) == list(range(LINES)), "every line was tried, and once"
            return
        steady = {line for line in working if not self.flaps(line)}
        candidates = steady or working
        # What flaps is used only for want of others.
        assert tried[-1] in candidates

    @rule(after=strategies.sampled_from([0.0, HELD - 1, HELD, HELD * 10]))
    def lose(self, after: float) -> None:
        self.choice.lost(self.used, after)
        self.lives[self.used].append(after >= HELD)

    @rule(number=NUMBERS)
    def climb(self, number: int) -> None:
        if number in self.choice.better():
            self.choice.opened(number)
            self.used = number

    @invariant()
    def it_remembers(self) -> None:
        assert self.choice.current == self.used

    @invariant()
    def what_worked_comes_first_unless_it_flaps(self) -> None:
        order = self.choice.order()
        assert sorted(order) == list(range(LINES))
        steady = [line for line in range(LINES) if not self.flaps(line)]
        expected = [line for line in steady if line == self.used] + [
            line for line in steady if line != self.used
        ]
        assert order[: len(steady)] == expected

    @invariant()
    def better_is_what_was_named_before(self) -> None:
        assert list(self.choice.better()) == list(range(self.used))


TestChoice = Model.TestCase
