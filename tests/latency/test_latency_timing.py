"""Timing in rounds, with a clock that moves with the made-up calls."""

import numpy as np
import pytest

from nas.latency.timing import MIN_ROUNDS, HostClock, Program, Rounds, measure, moving_percentile


class Machine:
    """A clock, and calls that take a known time on it; the whole machine can be slowed down."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slowdown = 1.0
        self.calls = 0

    def now(self) -> float:
        return self.time

    def call(self, seconds: float):
        def run(x):
            self.calls += 1
            self.time += seconds * self.slowdown
            return x

        return run

    def program(self, *seconds: float) -> Program:
        return Program(tuple(self.call(s) for s in seconds), None)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def rounds(machine: Machine, programs: list[Program], n: int = 5, limit_s: float = 1e9, done: Rounds | None = None) -> list[Rounds]:
    def order(number: int) -> np.ndarray:
        return np.random.default_rng(number).permutation(len(programs))

    return list(measure(programs, machine.program(0.5), HostClock(machine.now), n, limit_s, order, done, machine.now))


def test_each_call_gets_its_own_time(machine):
    """Each call is timed once per round, after one warm-up run, in whatever order the programs come."""
    found = rounds(machine, [machine.program(1, 2), machine.program(4)])[-1]
    assert found.laps == pytest.approx(np.tile([1, 2, 4], (5, 1)))
    assert found.references == pytest.approx(np.full((5, 2), 0.5))
    assert machine.calls == 5 * 2 * (3 + 2)  # rounds, warm and timed, calls and references


@pytest.mark.parametrize(("seconds", "runs"), [(1.0, 1 + 1), (0.0002, 3 + 1), (0.0, 20 + 1)])
def test_short_programs_are_warmed_up_for_longer(machine, seconds, runs):
    """Warm-up lasts half a millisecond, with at least one run and at most 20, before the run that counts."""
    machine.program(seconds).laps(HostClock(machine.now))
    assert machine.calls == runs


def test_a_slow_spell_of_the_machine_cancels(machine):
    """Normalised rounds agree when everything takes three times as long in every other round."""
    programs = [machine.program(1, 2), machine.program(4)]
    found = Rounds.none(programs)
    for i in range(5):
        machine.slowdown = 3 if i % 2 else 1
        found = rounds(machine, programs, n=i + 1, done=found)[-1]
    assert np.ptp(found.laps[:, 0]) == pytest.approx(2)
    assert found.normalised([2, 1]) == pytest.approx(np.tile([1, 2, 4], (5, 1)))


def test_slowdown_follows_the_order_of_visits():
    """The slowdown is 2 in the second half of a round, for whichever programs come then; ten other rounds are usual."""
    order = np.random.default_rng(0).permutation(40)
    references = np.ones((11, 40))
    references[0, order[20:]] = 2
    found = Rounds(np.ones((11, 40)), references, np.tile(order, (11, 1)), 1.0).slowdown()
    assert (found[0, order[:20]] == 1).all() and (found[0, order[24:]] == 2).all() and (found[1:] == 1).all()


def test_interrupted_references_change_nothing():
    """Two of three references take a hundred times as long, and the slowdown around them stays 1."""
    references = np.full((3, 20), 100.0)
    references[:, ::3] = 1
    found = Rounds(np.ones((3, 20)), references, np.tile(np.arange(20), (3, 1)), 1.0)
    assert (found.slowdown() == 1).all()


def test_moving_percentile_at_the_ends():
    """Medians and minima of windows of up to three, by hand."""
    values = np.array([1.0, 9, 2, 8])
    assert moving_percentile(values, 3, 50).tolist() == [5, 2, 8, 5]
    assert moving_percentile(values, 3, 0).tolist() == [1, 1, 2, 2]


def test_measuring_ends_within_the_limit(machine):
    """A round takes 2 x (7 + 2 x 0.5) = 16 s, so three rounds fit into 50 s."""
    found = rounds(machine, [machine.program(1, 2), machine.program(4)], n=100, limit_s=50)[-1]
    assert len(found) == 3 and found.seconds == machine.time == pytest.approx(48)


def test_a_limit_below_two_rounds_is_an_error(machine):
    """With time for fewer than two rounds, measuring stops at the limit and names the key."""
    assert MIN_ROUNDS == 2
    with pytest.raises(ValueError, match=r"2 rounds over 2 programs do not fit into 20 s; raise params\.yaml: latency\.limit_s"):
        rounds(machine, [machine.program(1, 2), machine.program(4)], limit_s=20)
    assert machine.time <= 20 + 2 * (4 + 0.5)


def test_resumed_rounds_equal_uninterrupted_ones(machine):
    """Three rounds and two more from them have the orders, times and seconds of five at once."""
    programs = [machine.program(1, 2), machine.program(4), machine.program(8)]
    whole = rounds(machine, programs)[-1]
    begun = rounds(machine, programs, n=3)[-1]
    resumed = rounds(machine, programs, done=begun)
    assert len(resumed) == 2 and len(resumed[0]) == 4
    assert np.array_equal(resumed[-1].orders, whole.orders)
    assert resumed[-1].laps == pytest.approx(whole.laps) and resumed[-1].seconds == pytest.approx(whole.seconds)


def test_nothing_runs_when_all_rounds_are_done(machine):
    """A stage that is resumed after its last round measures nothing."""
    programs = [machine.program(1)]
    done = rounds(machine, programs)[-1]
    before = machine.calls
    assert rounds(machine, programs, done=done) == [] and machine.calls == before
