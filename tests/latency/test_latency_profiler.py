"""A whole survey on a made-up device whose times are known: the table is exact, resumed or not."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from nas.cost import flops
from nas.cost.latency import Entry, LatencyTable, distinct, pieces
from nas.latency import validation as judge
from nas.latency.backends.torch_backend import Backend
from nas.latency.profiler import Settings, judged_on, survey, validation
from nas.latency.timing import HostClock
from nas.models.extract import Network

SAVED, FIXED = 20e-6, 300e-6  # seconds: what a piece costs more when it is called by itself; what a network pays once


class Toy(Backend):
    """A device that takes a microsecond a parameter; its clock moves with it, and now and then something else runs."""

    def __init__(self, interrupted: float = 0.0, in_chains: bool = True) -> None:
        self.in_chains = in_chains
        self.time, self.rng, self.interrupted, self.calls = 0.0, np.random.default_rng(0), interrupted, 0
        self.clock = HostClock(lambda: self.time)

    def random(self, batch: int, channels: int, side: int) -> int:
        return side

    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED if isinstance(module, Network) else SAVED))

    def call(self, seconds: float):
        def call(x: int) -> int:
            self.calls += 1
            self.time += seconds + (0.05 if self.rng.random() < self.interrupted else 0.0)
            return x

        return call

    def empty(self):
        return self.call(SAVED)

    def running(self):
        return nullcontext()

    def facts(self):
        return {"device": "toy", "backend": "none", "threads": 1}


class Memory(dict):
    """What was saved last, by name; stops the survey when told to."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.left = stop_after

    def save(self, state, name) -> None:
        self[name] = state
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def load(self, name):
        return self.get(name)


P = Settings.model_validate(
    {
        "backend": {"runtime": "torch", "device": "cpu", "threads": 1, "channels_last": True},
        "batch": 1,
        "repetitions": 6,
        "limit_s": 600,
        "fitted": 8,
        "networks": 40,
    }
)


def true_ms(table: LatencyTable, arch) -> float:
    return 1000 * (FIXED + 1e-6 * sum(p.numel() for p in judge_network(table, arch).parameters()))


def judge_network(table: LatencyTable, arch) -> torch.nn.Module:
    from nas.latency.modules import network

    return network(table.space, arch, table.classes)


@pytest.fixture(scope="module")
def found(tiny_space):
    return survey(P, tiny_space, 5, 0, Toy(), Memory())


def test_the_table_of_a_known_device_is_exact(found, tiny_space):
    """Fixed part, what calls cost and every piece are told apart: any network's latency comes out to six digits."""
    costs = found.table.cost_table()
    rng = np.random.default_rng(1)
    for arch in (tiny_space.smallest(), tiny_space.largest(), *(tiny_space.random(rng) for _ in range(20))):
        assert costs.cost(arch) == pytest.approx(true_ms(found.table, arch), rel=1e-5)


def test_pieces_by_themselves_give_the_same_table(found, tiny_space):
    """A backend whose calls don't run as in a network measures each piece alone, beside an empty call."""
    alone = survey(P, tiny_space, 5, 0, Toy(in_chains=False), Memory()).table
    assert {p: e.latency_ms for p, e in alone.entries.items()} == pytest.approx({p: e.latency_ms for p, e in found.table.entries.items()})
    assert alone.fixed_latency_ms == pytest.approx(1000 * FIXED) and {e.times for e in alone.entries.values()} == {6}


def test_every_piece_is_measured(found, tiny_space):
    """Its entry is its parameters' microseconds, whatever chains it was in."""
    from nas.latency.modules import module

    assert found.table.entries.keys() == set(distinct(tiny_space))
    for piece, entry in found.table.entries.items():
        expected = 1e-3 * sum(p.numel() for p in module(tiny_space, piece, 5).parameters())
        assert entry.latency_ms == pytest.approx(expected, rel=1e-3, abs=1e-5) and entry.times >= 6


def test_it_is_judged_on_other_networks(found):
    """40 that are not among the 8 fitted on, spread over the whole range of latencies."""
    assert len(set(found.archs)) == len(found.archs) == 48 and found.fitted == 8
    costs = found.table.cost_table()
    latencies = np.array([costs.cost(a) for a in found.archs[8:]])
    share = (latencies - costs.smallest) / (costs.largest - costs.smallest)
    assert np.histogram(share, bins=8, range=(0, 1))[0].min() >= 3


def test_the_figures_of_an_exact_table(found, tiny_space):
    """No error, no noise, the same order; FLOPs order otherwise."""
    judged = judged_on(validation(found, flops.table(tiny_space, 5)))
    figures = judge.figures(*(judged[c].to_numpy() for c in ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops")))
    assert len(judged) == 40 and figures["kendall_tau_latency"] == figures["kendall_tau_repeat"] == pytest.approx(1)
    assert figures["p90_relative_error"] < 1e-5 and figures["p90_noise"] < 1e-9 and abs(figures["bias"]) < 1e-5
    assert figures["kendall_tau_flops"] < 0.99


def test_raw_measurements_are_kept(found, tiny_space):
    """A row a network and round: the toy device's own times, and the round's measurement, 1 or 2, in turns."""
    rows = validation(found, flops.table(tiny_space, 5))
    assert len(rows) == 48 * 6 and rows["part"].value_counts().to_dict() == {"judge": 240, "fit": 48}
    one = rows[rows["network"] == 9]
    assert one["raw_latency_ms"].to_numpy() == pytest.approx(np.full(6, true_ms(found.table, found.archs[9])))
    assert one["measurement"].tolist() == [1, 2] * 3
    assert [int(g) for g in one["genes"].iloc[0].split()] == list(found.archs[9].genes)


def test_interruptions_do_not_show(found, tiny_space):
    """One call in fifty takes 50 ms longer: medians over the rounds pass over it."""
    disturbed = survey(P.model_copy(update={"repetitions": 15}), tiny_space, 5, 0, Toy(interrupted=0.02), Memory())
    costs, exact = disturbed.table.cost_table(), found.table.cost_table()
    rows = np.array([a.genes for a in found.archs])
    np.testing.assert_allclose(costs.costs(rows), exact.costs(rows), rtol=1e-3)


@pytest.mark.parametrize("saves", [1, 2])
def test_a_survey_that_was_stopped_goes_on(found, tiny_space, saves, monkeypatch):
    """After the pieces, and after the networks: nothing that is kept is measured again, and the table is the same."""
    kept = Memory(stop_after=saves)
    with pytest.raises(KeyboardInterrupt):
        survey(P, tiny_space, 5, 0, Toy(), kept)
    device = Toy()
    resumed = survey(P, tiny_space, 5, 0, device, kept)
    assert {p: e.latency_ms for p, e in resumed.table.entries.items()} == pytest.approx(
        {p: e.latency_ms for p, e in found.table.entries.items()}, rel=1e-6
    )
    whole = Toy()
    survey(P, tiny_space, 5, 0, whole, Memory())
    assert device.calls < whole.calls / (1.5 if saves == 1 else 10)


def test_what_it_was_measured_with_is_in_the_table(found):
    """Device, batch, repetitions, spread, the empty call, and the two numbers that were fitted."""
    setting = found.table.setting
    assert (setting["device"], setting["batch"], setting["repetitions"], setting["threads"]) == ("toy", 1, 6, 1)
    assert setting["reference_spread"] < 1e-9 and setting["empty_call_latency_ms"] == pytest.approx(1000 * SAVED)
    assert setting["fitted"]["fixed_latency_ms"] == pytest.approx(1000 * FIXED) and setting["fitted"]["factor"] == pytest.approx(1)


def test_no_piece_comes_out_negative(tiny_space):
    """One that took less than an empty call still costs a tenth of what it took; a longer one what is left."""
    a, b, *_ = distinct(tiny_space)
    found, empty_ms = judge.entries([[a, b]], np.array([[0.4, 2.0, 0.5]] * 3))
    assert (found[a].latency_ms, found[b].latency_ms, empty_ms) == (pytest.approx(0.04), 1.5, 0.5)


def test_the_fit_by_hand():
    """Four networks whose latencies are 3 ms and twice the sums of their pieces."""
    parts = [[Entry(float(n), 0, 1)] * n for n in (1, 2, 3, 4)]
    found = judge.fit(parts, np.array([5.0, 11, 21, 35]))
    assert (found.fixed_latency_ms, found.factor) == (pytest.approx(3), pytest.approx(2))


def test_a_few_networks_are_not_enough():
    """Two numbers fit three of them whatever they are."""
    with pytest.raises(ValueError, match=r"at least 4.*latency\.fitted"):
        judge.fit([[Entry(1.0, 0, 1)]] * 3, np.ones(3))


def test_a_space_that_is_too_small_is_told(tiny_space):
    """2304 architectures cannot give 3000 different ones."""
    table = LatencyTable(tiny_space, 5, dict.fromkeys(distinct(tiny_space), Entry(1.0, 0.0, 1)), 0.0)
    with pytest.raises(ValueError, match=r"too few architectures for 3000 different networks.*latency\.networks"):
        judge.spread_over(table, 3000, np.random.default_rng(0))


def test_figures_by_hand():
    """Two networks, 10 % over and 20 % under; measured 5 % and 10 % apart; both rankings the right way round and the wrong one."""
    figures = judge.figures(np.array([1.1, 1.6]), np.array([0.975, 1.9]), np.array([1.025, 2.1]), np.array([5.0, 4.0]))
    assert figures["bias"] == pytest.approx(-0.05) and figures["median_relative_error"] == pytest.approx(0.15)
    assert figures["p90_relative_error"] == pytest.approx(0.19) and figures["noise_floor"] == pytest.approx(0.075)
    assert (figures["kendall_tau_latency"], figures["kendall_tau_flops"]) == (pytest.approx(1), pytest.approx(-1))


def test_medians_over_rounds_and_chains(tiny_space):
    """By hand: a piece in two chains, three rounds, six times in all; empty calls, which take nothing, between."""
    a, b, *_ = distinct(tiny_space)
    found, empty_ms = judge.entries([[a, b], [a]], np.array([[1.0, 10, 0, 2, 0], [3, 10, 0, 4, 0], [5, 40, 0, 6, 0]]))
    assert empty_ms == 0 and found[a].latency_ms == 3.5 and found[a].times == 6
    assert found[b] == Entry(10.0, pytest.approx(1.5), 3)


def test_parts_are_those_of_the_architecture(tiny_space):
    """An entry a piece, those that repeat as often as they do."""
    arch = tiny_space.largest()
    entries = {p: Entry(float(i + 1), 0.0, 1) for i, p in enumerate(distinct(tiny_space))}
    assert judge.parts_of(tiny_space, entries, [arch]) == [[entries[p] for p in pieces(tiny_space, arch)]]
