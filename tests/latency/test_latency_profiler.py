"""Profiling a made-up device whose latencies are known: the table is exact, resumed or not."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from nas.cost.latency import Entry
from nas.cost.latency_mbconv import MBConvLatencyTable, distinct_blocks
from nas.latency import fit, validation
from nas.latency.backends.torch_backend import Backend
from nas.latency.mbconv import ProfiledMBConv, stratified
from nas.latency.profiler import LatencyConfig, Profile, profile
from nas.latency.timing import HostClock
from nas.models.extract import Network

CALL_S, FIXED_S = 20e-6, 300e-6  # seconds: overhead of calling a block by itself, fixed overhead of a network


class Toy(Backend):
    """A device that takes a microsecond per parameter, with its own clock; a share of the calls is interrupted."""

    def __init__(self, interrupted: float = 0.0, in_chains: bool = True) -> None:
        self.in_chains = in_chains
        self.time, self.rng, self.interrupted, self.calls = 0.0, np.random.default_rng(0), interrupted, 0
        self.clock = HostClock(lambda: self.time)

    def random(self, batch: int, channels: int, side: int) -> int:
        return side

    def prepare(self, module: torch.nn.Module, example: int):
        seconds = 1e-6 * sum(p.numel() for p in module.parameters())
        return self.call(seconds + (FIXED_S if isinstance(module, Network) else CALL_S))

    def call(self, seconds: float):
        def call(x: int) -> int:
            self.calls += 1
            self.time += seconds + (0.05 if self.rng.random() < self.interrupted else 0.0)
            return x

        return call

    def empty(self):
        return self.call(CALL_S)

    def running(self):
        return nullcontext()

    def facts(self):
        return {"device": "toy", "backend": "none", "threads": 1}


class Memory(dict):
    """The last state by name; interrupts the run after a number of saves."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.saves_until_stop = stop_after

    def save(self, state, name) -> None:
        self[name] = state
        self.saves_until_stop -= 1
        if not self.saves_until_stop:
            raise KeyboardInterrupt

    def load(self, name):
        return self.get(name)


CONFIG = LatencyConfig.model_validate(
    {
        "backend": {"runtime": "torch", "device": "cpu", "threads": 1, "channels_last": True},
        "batch": 1,
        "repetitions": 6,
        "limit_s": 600,
        "fitted": 8,
        "networks": 40,
    }
)


def true_ms(table: MBConvLatencyTable, arch) -> float:
    network = ProfiledMBConv(table.space).network(arch, table.classes)
    return 1000 * (FIXED_S + 1e-6 * sum(p.numel() for p in network.parameters()))


def latencies(table: MBConvLatencyTable) -> dict:
    return {block: entry.latency_ms for block, entry in table.entries.items()}


@pytest.fixture(scope="module")
def profiled(tiny_space) -> Profile:
    return profile(CONFIG, ProfiledMBConv(tiny_space), 5, 0, Toy(), Memory())


def test_the_table_of_a_known_device_is_exact(profiled, tiny_space):
    """The fixed overhead, the cost of calls and every block are separated: the latency of any network is exact to six digits."""
    costs = profiled.table.costs
    rng = np.random.default_rng(1)
    for arch in (tiny_space.smallest(), tiny_space.largest(), *(tiny_space.random(rng) for _ in range(20))):
        assert costs.cost(arch) == pytest.approx(true_ms(profiled.table, arch), rel=1e-5)


def test_isolated_blocks_give_the_same_table(profiled, tiny_space):
    """A backend whose calls do not run as in a network measures each block by itself, beside an empty call."""
    isolated = profile(CONFIG, ProfiledMBConv(tiny_space), 5, 0, Toy(in_chains=False), Memory()).table
    assert latencies(isolated) == pytest.approx(latencies(profiled.table))
    assert isolated.fixed_latency_ms == pytest.approx(1000 * FIXED_S) and {e.times for e in isolated.entries.values()} == {6}


def test_every_block_is_measured(profiled, tiny_space):
    """The entry of a block is a microsecond per parameter, whatever chains hold it."""
    assert profiled.table.entries.keys() == set(distinct_blocks(tiny_space))
    for block, entry in profiled.table.entries.items():
        expected = 1e-3 * sum(p.numel() for p in ProfiledMBConv(tiny_space).module(block, 5).parameters())
        assert entry.latency_ms == pytest.approx(expected, rel=1e-3, abs=1e-5) and entry.times >= 6


def test_validation_networks_are_other_networks(profiled):
    """The 40 validation networks are not among the 8 of the fit, and cover the range of latencies."""
    assert len(set(profiled.archs)) == len(profiled.archs) == 48 and profiled.fitted == 8
    costs = profiled.table.costs
    latencies = np.array([costs.cost(a) for a in profiled.archs[8:]])
    share = (latencies - costs.smallest) / (costs.largest - costs.smallest)
    assert np.histogram(share, bins=8, range=(0, 1))[0].min() >= 3


def test_the_metrics_of_an_exact_table(profiled):
    """An exact table has no error and no noise, and ranks networks as measured; FLOPs rank them otherwise."""
    metrics = profiled.metrics()
    assert metrics["networks"] == 40 and metrics["kendall_tau_latency"] == metrics["kendall_tau_repeat"] == pytest.approx(1)
    assert metrics["p90_relative_error"] < 1e-5 and metrics["p90_noise"] < 1e-9 and abs(metrics["bias"]) < 1e-5
    assert metrics["kendall_tau_flops"] < 0.99
    assert (metrics["min_latency_ms"], metrics["max_latency_ms"]) == (profiled.table.costs.smallest, profiled.table.costs.largest)


def test_raw_measurements_have_a_row_per_network_and_round(profiled):
    """Rows hold the device's own latencies, and the measurement, 1 or 2, alternating by round."""
    rows = profiled.measurements()
    assert len(rows) == 48 * 6 and rows["part"].value_counts().to_dict() == {"validation": 240, "fit": 48}
    one = rows[rows["network"] == 9]
    assert one["raw_latency_ms"].to_numpy() == pytest.approx(np.full(6, true_ms(profiled.table, profiled.archs[9])))
    assert one["measurement"].tolist() == [1, 2] * 3
    assert [int(g) for g in one["genes"].iloc[0].split()] == list(profiled.archs[9].genes)


def test_interruptions_do_not_show(profiled, tiny_space):
    """Medians over the rounds ignore one call in fifty that takes 50 ms longer."""
    config = CONFIG.model_copy(update={"repetitions": 15})
    disturbed = profile(config, ProfiledMBConv(tiny_space), 5, 0, Toy(interrupted=0.02), Memory())
    costs, exact = disturbed.table.costs, profiled.table.costs
    rows = np.array([a.genes for a in profiled.archs])
    np.testing.assert_allclose(costs.costs(rows), exact.costs(rows), rtol=1e-3)


@pytest.mark.parametrize("saves", [1, 2])
def test_a_stopped_run_is_resumed(profiled, tiny_space, saves):
    """After the blocks and after the networks: no saved round is measured again, and the table is the same."""
    memory, space = Memory(stop_after=saves), ProfiledMBConv(tiny_space)
    with pytest.raises(KeyboardInterrupt):
        profile(CONFIG, space, 5, 0, Toy(), memory)
    device, undisturbed = Toy(), Toy()
    resumed = profile(CONFIG, space, 5, 0, device, memory)
    assert latencies(resumed.table) == pytest.approx(latencies(profiled.table), rel=1e-6)
    profile(CONFIG, space, 5, 0, undisturbed, Memory())
    assert device.calls < undisturbed.calls / (1.5 if saves == 1 else 10)


def test_the_table_holds_the_setting_of_the_measurement(profiled):
    """The setting has device, batch, repetitions, spread, the empty call, and the two fitted numbers."""
    setting = profiled.table.setting
    assert (setting["device"], setting["batch"], setting["repetitions"], setting["threads"]) == ("toy", 1, 6, 1)
    assert setting["reference_spread"] < 1e-9 and setting["empty_call_latency_ms"] == pytest.approx(1000 * CALL_S)
    assert setting["fitted"]["fixed_latency_ms"] == pytest.approx(1000 * FIXED_S) and setting["fitted"]["factor"] == pytest.approx(1)


def test_no_block_has_a_negative_latency(tiny_space):
    """A block that takes less than an empty call keeps a tenth of its latency; a longer one keeps the difference."""
    a, b, *_ = distinct_blocks(tiny_space)
    entries, empty_ms = fit.entries([[a, b]], np.array([[0.4, 2.0, 0.5]] * 3))
    assert (entries[a].latency_ms, entries[b].latency_ms, empty_ms) == (pytest.approx(0.04), 1.5, 0.5)


def test_the_fit_by_hand():
    """Four networks take 3 ms and twice the sums of their blocks."""
    correction = fit.fit([1.0, 4.0, 9.0, 16.0], np.array([5.0, 11, 21, 35]))
    assert (correction.fixed_latency_ms, correction.factor) == (pytest.approx(3), pytest.approx(2))


def test_three_networks_are_too_few_to_fit():
    """Two numbers fit three networks whatever they are."""
    with pytest.raises(ValueError, match=r"at least 4.*latency\.fitted"):
        fit.fit([1.0] * 3, np.ones(3))


def test_a_space_with_too_few_networks_is_refused(tiny_space):
    """2304 architectures cannot give 3000 different ones."""
    table = MBConvLatencyTable(tiny_space, 5, dict.fromkeys(distinct_blocks(tiny_space), Entry(1.0, 0.0)), 0.0)
    with pytest.raises(ValueError, match=r"too few architectures for 3000 different networks.*latency\.networks"):
        stratified(table, 3000, np.random.default_rng(0))


def test_metrics_by_hand():
    """Two networks are predicted 10 % over and 20 % under and measured 5 % and 10 % apart; one ranking is right, one reversed."""
    columns = {
        "predicted_latency_ms": [1.1, 1.6],
        "first_latency_ms": [0.975, 1.9],
        "second_latency_ms": [1.025, 2.1],
        "mflops": [5.0, 4.0],
    }
    metrics = validation.metrics(pd.DataFrame(columns))
    assert metrics["bias"] == pytest.approx(-0.05) and metrics["median_relative_error"] == pytest.approx(0.15)
    assert metrics["p90_relative_error"] == pytest.approx(0.19) and metrics["noise_floor"] == pytest.approx(0.075)
    assert (metrics["kendall_tau_latency"], metrics["kendall_tau_flops"]) == (pytest.approx(1), pytest.approx(-1))


def test_entries_are_medians_over_rounds_and_chains(tiny_space):
    """By hand: a block in two chains and three rounds has six measurements; empty calls that take nothing are between."""
    a, b, *_ = distinct_blocks(tiny_space)
    entries, empty_ms = fit.entries([[a, b], [a]], np.array([[1.0, 10, 0, 2, 0], [3, 10, 0, 4, 0], [5, 40, 0, 6, 0]]))
    assert empty_ms == 0 and entries[a].latency_ms == 3.5 and entries[a].times == 6
    assert entries[b] == Entry(10.0, pytest.approx(1.5), 3)
