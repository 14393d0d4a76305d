"""Stage search apart from the pipeline: the problem that params.yaml describes, first draws, and the cache of scores."""

import numpy as np
import pytest
import yaml

from nas.cost.latency import Entry
from nas.cost.latency_mbconv import MBConvLatencyTable, distinct_blocks
from nas.evaluation.metrics import hypervolume
from nas.runtime import params, processes
from nas.runtime.checkpoint import Checkpoint
from nas.search.archive import Archive, ScoreCache
from nas.search.setup import NO_LATENCY_TABLE, Search, build_problem, cost_tables, draws, hypervolume_of
from nas.spaces import encoding
from nas.stages import search, supernet_search
from nas.tracking import provenance

TABLE = "outputs/latency/table.json"
EVOLUTION = {"population": 20, "mutations": 5, "crossovers": 5, "rounds": 2, "mutation_probability": 0.2, "bucket": 0.03}


def section(**changes) -> Search:
    """The default section `search` with a latency table and some keys changed; bounds as {cost: (least, greatest)}."""
    found = yaml.safe_load(params.FILE.read_text())["search"] | {"latency_table": TABLE}
    bounds = {name: dict(zip(("min", "max"), ends)) for name, ends in changes.pop("bounds", {}).items()}
    return params.check({"search": found | changes | {"bounds": found["bounds"] | bounds}}, "search", Search)


@pytest.fixture(scope="module")
def known(tiny_space, tmp_path_factory) -> dict:
    """FLOPs, parameters, and made-up latencies: each block takes its number of channels in ms."""
    entries = {block: Entry(float(block.width), 0.0) for block in distinct_blocks(tiny_space)}
    file = tmp_path_factory.mktemp("latency") / "table.json"
    MBConvLatencyTable(tiny_space, 10, entries, 1.5).save(file)
    return cost_tables(tiny_space, 10, str(file))


def test_costs_are_objectives_in_the_order_given_and_the_others_are_reported(known):
    """Two objectives beside the score, or one and the other among the constraints without a bound."""
    both = build_problem(section(costs=["parameters", "mflops"]), known)
    assert [o.name for o in both.objectives] == ["parameters", "mflops", "top1"] and [o.name for o in both.constraints] == ["latency_ms"]
    one = build_problem(section(), known)
    assert [o.name for o in one.objectives] == ["mflops", "top1"] and [o.name for o in one.constraints] == ["parameters", "latency_ms"]


def test_without_a_table_latency_is_neither_an_objective_nor_a_column(tiny_space):
    """The default: the costs are MFLOPs and parameters."""
    tables = cost_tables(tiny_space, 10, section(latency_table=NO_LATENCY_TABLE).latency_table)
    problem = build_problem(section(latency_table=NO_LATENCY_TABLE), tables)
    assert list(tables) == ["mflops", "parameters"] and [o.name for o in problem.constraints] == ["parameters"]


@pytest.mark.parametrize(
    "changes",
    [
        {"costs": ["mflops", "latency_ms"]},
        {"bounds": {"latency_ms": (None, 5.0)}},
        {"models": None, "targets": [{"mflops": 1.0}, {"latency_ms": 5.0}]},
    ],
)
def test_a_latency_without_a_table_is_refused(changes):
    """The message has the key that names latency_ms and the one to change."""
    key = next(key for key in ("bounds", "targets", "costs") if key in changes)
    with pytest.raises(
        params.ParamsError, match=rf"search\.{key} names latency_ms.*set search\.latency_table to outputs/latency/table\.json"
    ):
        section(latency_table=NO_LATENCY_TABLE, **changes)


def test_bounds_of_any_kind_hold(known, tiny_rows):
    """On an objective, on what is none, and on the score: the rows allowed are those that keep the first two, by enumeration."""
    mflops, sizes = (known[name].costs(tiny_rows) for name in ("mflops", "parameters"))
    low, high = np.quantile(mflops, [0.2, 0.7])
    most = float(np.quantile(sizes, 0.5))
    problem = build_problem(section(bounds={"mflops": (low, high), "parameters": (None, most), "top1": (60.0, None)}), known)
    assert np.array_equal(problem.allowed(tiny_rows), (mflops >= low) & (mflops <= high) & (sizes <= most))
    assert problem.score.within(np.array([59.9, 60.0])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": None, "targets": [{"mflops": 1e9}]},
            r"1e\+09 MFLOPs; the achievable range is \d.* to \d.* MFLOPs; change params\.yaml: search\.targets",
        ),
        ({"models": None, "targets": [{"parameters": 1}]}, r"costs 1 parameters; .* parameters; change params\.yaml: search\.targets"),
        (
            {"models": None, "targets": [{"latency_ms": 0.2}]},
            r"0\.2 ms; the achievable range is \d.* to \d.* ms; change params\.yaml: search\.targets",
        ),
        (
            {"models": None, "targets": [{"latency_ms": 1e6}]},
            r"1e\+06 ms; the achievable range is \d.* to \d.* ms; change params\.yaml: search\.targets",
        ),
        ({"bounds": {"parameters": (None, 1)}}, r"achievable range.*change params\.yaml: search\.bounds\.parameters"),
        ({"bounds": {"mflops": (3.0, 2.0)}}, r"search\.bounds\.mflops"),
        ({"bounds": {"top1": (90.0, 80.0)}}, r"search\.bounds\.top1"),
    ],
)
def test_what_nothing_can_meet_is_said_before_the_search(changes, message, known):
    """The key, and what there is."""
    with pytest.raises(ValueError, match=message):
        build_problem(section(**changes), known)


@pytest.mark.parametrize("first", ["spread", "uniform"])
def test_first_draws_keep_the_tightest_bound(first, known):
    """The fewest architectures have so few parameters: all drawn ones do, and they keep the wide bound on MFLOPs nearly always."""
    p = section(first=first, bounds={"mflops": (None, known["mflops"].largest), "parameters": (None, 1.2 * known["parameters"].smallest)})
    problem = build_problem(p, known)
    for draw in draws(p.first, problem, known):
        rows = encoding.to_genes(draw(50, np.random.default_rng(0)))
        assert problem.allowed(rows).all()


def test_a_spread_first_draw_reaches_the_ends_more_often(known):
    """The most expensive eighth of the range of cost: about an eighth of a spread draw, and its own share of all in a uniform one."""
    shares = []
    edge = known["mflops"].largest - (known["mflops"].largest - known["mflops"].smallest) / 8
    for first in ("spread", "uniform"):
        draw, _ = draws(first, build_problem(section(), known), known)
        rows = encoding.to_genes(draw(800, np.random.default_rng(0)))
        shares.append((known["mflops"].costs(rows) >= edge).mean())
    assert shares[0] == pytest.approx(1 / 8, abs=0.03) and shares[1] < shares[0] / 2


def test_the_volume_of_accuracy_and_flops_is_that_of_the_other_stages(known, tiny_rows):
    """Beside `nas.evaluation.metrics.hypervolume`; with parameters as a third objective it is smaller, and not zero."""
    rows = tiny_rows[::97]
    score = np.random.default_rng(0).uniform(20, 90, len(rows))
    cost = known["mflops"].costs(rows)
    found = Archive(rows, cost, score, np.zeros(len(rows), int))
    plain = hypervolume_of(build_problem(section(), known), known, 10)(found)
    assert plain == pytest.approx(hypervolume(cost, score, known["mflops"].largest, 10))
    both = hypervolume_of(build_problem(section(costs=["mflops", "parameters"]), known), known, 10)(found)
    assert 0 < both < plain


class Curves:
    """Stands for the MLflow run."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log(self, metrics: dict[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.points.setdefault(key, []).append((step, value))


@pytest.mark.parametrize("costs", [["mflops"], ["mflops", "parameters"]])
def test_curves_show_the_hypervolume_against_the_evaluations(known, tmp_path, costs):
    """The names do not depend on the method; history.csv has the same points, and the last ones are the stage's metrics."""
    cfg = section(costs=costs, evolution=EVOLUTION)
    problem, run = build_problem(cfg, known), Curves()
    measure = supernet_search.search_measure(cfg, problem, known, 10)
    score = lambda archs: [50.0 + len(str(arch)) % 37 for arch in archs]  # noqa: E731
    with Checkpoint(tmp_path, "search", "0" * 16) as checkpoint:
        archives = supernet_search.run_searches(cfg, problem, known, score, ScoreCache(), measure, 0, run, checkpoint)
    metrics, history = supernet_search.metrics(cfg, archives, measure), supernet_search.history(archives, measure)

    names = ["hypervolume", "top1_best"] + ["hypervolume_objectives"] * (len(costs) > 1)
    assert sorted(run.points) == sorted(f"search/{name}{suffix}" for name in names for suffix in ("", "_random"))
    for suffix, method in (("", "evolution"), ("_random", "random")):
        for name in names:
            rows = history[history["method"] == method]
            assert run.points[f"search/{name}{suffix}"] == list(zip(rows["evaluations"], rows[name]))
    assert {name: run.points[f"search/{name}"][-1] for name in names} == {
        name: (len(archives["evolution"]), metrics[name]) for name in names
    }
    assert run.points["search/hypervolume_random"][-1][1] == metrics["hypervolume_random"]
    assert ("hypervolume_objectives" in metrics) == (len(costs) > 1)


def test_scores_are_kept_by_what_they_were_measured_with(tmp_path, monkeypatch):
    """Another search finds them again; other weights, images or settings of measurement do not."""
    p = section()
    deps = {
        p.latency_table: "t",
        "nas/search": "a",
        "nas/models": "b",
        "outputs/train/weights.safetensors": "c",
        "outputs/train/early.safetensors": "d",
    }
    settings = {"seed": 0, "space": "s", "runtime": {}, "evaluation": {"batch": 2}, "search": {"method": "evolution"}}
    monkeypatch.setattr(processes, "project_root", lambda: tmp_path)
    monkeypatch.setattr(provenance, "inputs", lambda stage: deps)
    monkeypatch.setattr(params, "read_all", lambda: settings)
    row = np.array([1, 2, 3])

    def kept(weights: str = "outputs/train/weights.safetensors") -> float | None:
        return search.cached_scores(weights, p.latency_table).get(row)

    search.cached_scores("outputs/train/weights.safetensors", p.latency_table).put(row, 50.0)
    assert kept() == 50.0 and kept("outputs/train/early.safetensors") is None
    deps["nas/search"] = deps[p.latency_table] = settings["search"] = deps["outputs/train/early.safetensors"] = "other"
    assert kept() == 50.0
    for changed, key in ((deps, "nas/models"), (deps, "outputs/train/weights.safetensors"), (settings, "evaluation")):
        before, changed[key] = changed[key], "other"
        assert kept() is None
        changed[key] = before
    assert kept() == 50.0
