"""The study of TF-NAS's claims: parameters, checkpoints, verdicts by hand, the page."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from nas.differentiable.tf_nas.scaling import scale
from nas.runtime import presets
from nas.runtime.io import DocumentError
from nas.runtime.params import ParamsError
from nas.spaces.tf_nas import Arch
from nas.stages.differentiable import LatencyTarget as Target
from studies.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, claim_rows
from studies.tf_nas_claims import claims, config, devices, report, stopping
from studies.tf_nas_claims.claims import Results, all_claims
from tests.differentiable.tf_nas.tiny import TINY, random_arch, random_table, rising_table, with_widths
from tests.stages.test_pipeline import ROOT


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """What is varied, to be changed; TF-NAS's own parameters are the shipped ones."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(config.PIPELINE.parameters, tmp_path / "claims.yaml"))


def test_the_smoke_preset_of_the_claims_fits(file):
    """Two values of lambda, two seeds."""
    presets.apply("smoke", file, ROOT / config.PIPELINE.folder / "presets")
    s = config.read(file)
    assert s.trade_off.values == (0.01, 0.5) and s.collapse.seeds == (0, 1)


def test_values_of_lambda_are_the_papers(file):
    """The supplement's range, 0.01 to 0.5, with its default among them; the preset paper has all of its Table 8."""
    values = config.read(file).trade_off.values
    assert (values[0], values[-1]) == (0.01, 0.5) and 0.1 in values
    presets.apply("paper", file, ROOT / config.PIPELINE.folder / "presets")
    assert config.read(file).trade_off.values == (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("trade_off", {"seeds": [0], "values": [0.5, 0.1]}, "trade_off: values must ascend"),
        ("collapse", {"seeds": [1, 1]}, "collapse: seeds: one is listed twice"),
        ("devices", {"threads": 1}, "devices.threads: 1 is the number of the first device"),
        ("stopping", {"seeds": [0]}, "stopping.early_stopping is missing"),
        ("stoping", {}, "stoping is not a known key"),
    ],
)
def test_errors_in_the_parameters_are_named(file, section, value, message):
    """Before any stage runs, with the key."""
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {section: value}))
    with pytest.raises(ParamsError, match=message):
        config.read(file)


def test_a_setting_is_varied_and_no_other(file):
    """All else stays as TF-NAS's parameters say."""
    s = config.read(file).tf_nas
    found = config.varied(s, 7, trade_off=0.5)
    assert (found.seed, found.search.method.trade_off) == (7, 0.5)
    back = found.search.method.model_copy(update={"trade_off": s.search.method.trade_off})
    assert replace(found, seed=s.seed, search=found.search.model_copy(update={"method": back})) == config.varied(s, s.seed)


def test_stopping_varies_the_stated_parameters(file):
    """All classes, chosen ones, and one path a step with the rule of early stopping."""
    s = config.read(file)
    found = stopping.variants(s, 3)
    assert [v.search.classes is None for v in found.values()] == [True, False, False]
    assert [v.search.method.bi_sampling for v in found.values()] == [True, True, False]
    assert [v.search.method.early_stopping for v in found.values()] == [None, None, s.stopping.early_stopping]


def test_the_median_target_is_chosen(file):
    """In ms of the device that the table is of, whatever their order."""
    s, table = config.read(file).tf_nas, random_table(TINY)
    low, high = table.range_ms
    targets = (Target(share=0.9), Target(share=0.1), Target(latency_ms=low + 0.3 * (high - low)))
    s = replace(s, search=s.search.model_copy(update={"targets": targets}))
    assert config.median_target(s, table) == pytest.approx(low + 0.3 * (high - low))


class Memory(dict):
    """A checkpoint in memory."""

    def load(self, name: str) -> dict | None:
        return dict(self[name]) if name in self else None

    def save(self, state: dict, name: str) -> None:
        self[name] = state


def test_cpu_seconds_go_on_after_a_kill(monkeypatch):
    """What was spent before is added to, what was spent since the last save is not counted twice; states stay what they were."""
    memory, clock = Memory(), iter([10.0, 13.0, 100.0, 100.0, 102.0])
    monkeypatch.setattr(config.time, "process_time", lambda: next(clock))
    config.TimedCheckpoint(memory, "a-").save({"x": 1}, "state.pt")
    again = config.TimedCheckpoint(memory, "a-")
    assert again.load("other.pt") is None and again.load("state.pt") == {"x": 1} and again.cpu_seconds == 3
    again.save({"x": 2}, "state.pt")
    assert again.cpu_seconds == 5 and list(memory) == ["a-state.pt"]


def test_classes_are_chosen_once(file, monkeypatch):
    """A second search of the same seed takes those that are kept, with the seconds that they took."""
    s, memory, calls = config.read(file).tf_nas, Memory(), []

    def choose(*args):
        calls.append(args)
        return np.array([1, 4])

    monkeypatch.setattr(config, "searched_classes", choose)
    monkeypatch.setattr(config, "open_dataset", lambda folder: SimpleNamespace(classes=range(5)))
    monkeypatch.setattr(config.latency_tf_nas.TfNasLatencyTable, "load", lambda *args: random_table(TINY))
    searches = config.Searches(s, memory, None)
    first, again = (searches._classes(s, "0-chosen-") for _ in range(2))
    assert first[0].tolist() == again[0].tolist() == [1, 4] and first[1] == again[1] and len(calls) == 1


@pytest.mark.parametrize("seed", range(30))
def test_a_scaled_network_is_within_a_step(seed):
    """Of its target, where the bounds allow it: what `next_step_ms` would add crosses it, or no stage can grow."""
    table, (choice, _) = rising_table(seed), random_arch(TINY, np.random.default_rng(seed))
    target = (table.latency_ms(with_widths(choice, 0)) + table.latency_ms(with_widths(choice, 1))) / 2
    found = scale(table, choice, target)
    left = target - table.latency_ms(found)
    assert 0 <= left < config.next_step_ms(table, found)
    assert config.next_step_ms(table, with_widths(choice, 1)) == 0


def test_agreement_by_hand():
    """Two of four layers, one of two stages; widths do not count."""
    a, b = Arch((0, 1, 2, 0), (1, 2), (8, 8, 8, 8)), Arch((0, 1, 0, 1), (1, 3), (9, 9, 9, 9))
    assert config.agreement(a, b) == (0.5, 0.5)


def test_chance_of_the_commonest_by_hand():
    """Two layers, two operations: both alike or one each, with the same chance: 3/4 of the layers in the mean."""
    assert claims.chance_share(2, 2, np.random.default_rng(0)) == pytest.approx(0.75, abs=0.01)


def reached(ms: float, step: float = 0.01, bound: str = "") -> dict:
    """A network for 10 ms."""
    return {"target_latency_ms": 10.0, "table_latency_ms": ms, "step_latency_ms": step, "bounds_reached": bound}


@pytest.fixture
def results() -> Results:
    """Synthetic results with obvious verdicts."""
    off = {(0.01, True): 9.99, (0.01, False): 14.0, (0.1, True): 9.95, (0.1, False): 12.0, (0.5, True): 9.8, (0.5, False): 11.0}
    devices_ms = {("a", "a"): 9.99, ("b", "a"): 8.0, ("a", "b"): 13.0, ("b", "b"): 9.95}
    measured = {"measured_latency_ms": 10.0, "noise_floor": 0.001}
    searched = {"all classes": (10, 300.0, 70.0), "chosen classes": (10, 100.0, 69.0), "stopped early": (6, 60.0, 67.0)}
    return Results(
        targets=pd.DataFrame(
            [
                {"name": "a", **reached(9.99), **measured},
                {"name": "b", **reached(9.7, step=0.4), **measured},
                {"name": "c", **reached(12.0, bound="least"), **measured},
            ]
        ),
        trade_off=pd.DataFrame(
            [{"seed": 0, "trade_off": v, "scaled": scaled, **reached(ms), "expected_latency_ms": 10.0} for (v, scaled), ms in off.items()]
        ),
        collapse=pd.DataFrame(
            [
                {"seed": seed, "bi_sampling": both, "same_operation": 0.4 if both else 0.6 + 0.05 * seed, "different": 4 if both else 3}
                for seed in range(3)
                for both in (True, False)
            ]
        ),
        devices=pd.DataFrame(
            [
                {
                    "network": network,
                    "device": device,
                    **reached(ms),
                    "measured_latency_ms": 1.2 * ms,
                    "noise_floor": 0.01,
                    "table_error": 0.03,
                }
                for (network, device), ms in devices_ms.items()
            ]
        ),
        stopping=pd.DataFrame(
            [
                {
                    "seed": 0,
                    "searched": name,
                    "epochs": epochs,
                    "cpu_seconds": s,
                    "same_operation": 0.5,
                    "same_layers": 0.4,
                    "same_depths": 1.0,
                }
                | {**reached(9.99), "top1": top1}
                for name, (epochs, s, top1) in searched.items()
            ]
        ),
        layers=8,
        operations=8,
    )


def test_verdicts_by_hand(results):
    """Each claim by the synthetic results."""
    found = {claim.key: claim.verdict for claim in all_claims(results)}
    assert found == {
        "targets": f"{SUPPORTED} in 2 of 3, {INCONCLUSIVE} in 1",  # the third is at its bounds
        "measured latency": f"{SUPPORTED} in 1 of 3, {NOT_SUPPORTED} in 2",
        "lambda, with scaling": f"{SUPPORTED} in 2 of 3, {NOT_SUPPORTED} in 1",  # 2 % off, a step being 0.1 %
        "lambda, without scaling": SUPPORTED,
        "sensitivity to lambda": INCONCLUSIVE,  # one seed
        "operation collapse": SUPPORTED,
        "two devices, targets": SUPPORTED,
        "two devices, each its own": SUPPORTED,
        "two devices, measured": NOT_SUPPORTED,
        "chosen classes": SUPPORTED,
        "early stopping": INCONCLUSIVE,  # one seed
    }


def test_a_file_without_bounds_reads_as_none(results, tmp_path):
    """An empty text is NaN when it comes back from a CSV: no network is excused by it."""
    results.trade_off.to_csv(tmp_path / "results.csv", index=False)
    found = claims.target_checks(pd.read_csv(tmp_path / "results.csv"), ["a"] * 6, bounds_excuse=True)
    assert [check.reason for check in found] == [""] * 6


@pytest.mark.parametrize(
    ("ms", "bounds_excuse", "verdict"),
    [(9.95, True, SUPPORTED), (9.5, True, INCONCLUSIVE), (9.95, False, SUPPORTED), (9.5, False, NOT_SUPPORTED)],
)
def test_a_bound_excuses_only_what_is_off(ms, bounds_excuse, verdict):
    """A network at its bounds that is on the target all the same holds; where bounds are no excuse they are named."""
    (check,) = claims.target_checks(pd.DataFrame([reached(ms, bound="most")]), ["a"], bounds_excuse)
    assert check.verdict == verdict
    assert (check.name == "a") == (bounds_excuse or verdict == SUPPORTED)


def test_the_page_shows_every_claim(results):
    """Every claim once in short and once at length, its verdict, every part a row, each image once, links that lead somewhere."""
    judged = all_claims(results)
    text = report.PAGE.text(judged, {"machine": "a machine"})
    lines = text.splitlines()
    for claim in judged:
        title = claim.key[0].upper() + claim.key[1:]
        anchor = f"#{claim.key.replace(',', '').replace(' ', '-')}"
        assert f"### {title}" in lines and f"| [{title}]({anchor}) | {claim.statement} | **{claim.verdict}** |" in lines
        assert all(any(line.startswith(f"| {part.name} |") for line in lines) for part in claim.parts)
    images = re.findall(r"!\[[^\]]*\]\(\S*/(\w+)\.png\)", text)
    assert sorted(images) == ["collapse", "trade_off"]
    assert "| machine | a machine | GPU: Titan RTX" in text and "all widths are at their least" in text
    assert len(claim_rows(judged)) == sum(len(claim.parts) for claim in judged)


def test_figures_of_the_page_are_drawn(results):
    """Both lines over lambda and the target; both ways of sampling over the seeds."""
    over_lambda, same = report.charts(results)
    assert [s.y.tolist() for s in over_lambda.series] == [[9.99, 9.95, 9.8], [14.0, 12.0, 11.0], [10.0, 10.0, 10.0]]
    assert [s.y.tolist() for s in same.series] == [[40.0] * 3, pytest.approx([60.0, 65.0, 70.0])]
    report.style.image(over_lambda), report.style.image(same)


def test_metrics_of_two_devices_by_hand(results):
    """Means over both devices of the distances from the target, and of the measurements from the table."""
    found = devices.metrics(results.devices)
    assert found == pytest.approx({"own_deviation": 0.003, "other_deviation": 0.25, "measured_deviation": 0.2})


def test_a_missing_network_is_named(tmp_path, monkeypatch):
    """With the stage that searches it."""
    (tmp_path / "searched.json").write_text('[{"target_latency_ms": 2.0}]')
    monkeypatch.setattr(devices, "SEARCHED", tmp_path / "searched.json")
    with pytest.raises(DocumentError, match=r"no network for 3 ms'; dvc repro -f pipelines/tf_nas/dvc\.yaml:search"):
        devices.network_for(3.0)
