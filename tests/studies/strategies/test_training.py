"""What the comparison's stages share: parameters, partitions, the architectures measured for all, and how they are measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import flops
from nas.data.loader import EvaluationBatches
from nas.data.splits import Parts
from nas.evaluation.evaluate import Scorer
from nas.evaluation.metrics import search_metrics
from nas.models.extract import Network
from nas.models.supernet import Supernet
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.search.archive import Archive
from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace
from studies.strategies import comparisons, config, training

SHIPPED = config.FILE.resolve()
TEXT = SHIPPED.read_text()
MEASURE = config.Measure(buckets=3, architectures=4, mutations=3, crossovers=3, rounds=2, mutation_probability=0.3, parents_mflops=0.05)


class Curves:
    """Stands for the MLflow run: what was logged, by step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.steps[step] = metrics


@pytest.fixture(scope="module")
def table(tiny_space):
    return flops.table(tiny_space, 3)


def changed(tmp_path, **sections) -> object:
    """The shipped parameters with some top-level entries replaced (None: left out), as a file."""
    found = {k: v for k, v in (yaml.safe_load(TEXT) | sections).items() if v is not None}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(found))
    return file


def test_the_shipped_parameters_are_valid():
    """All strategies of the paper's section 4.4 with three seeds or more, and the one beyond it."""
    s = config.read(SHIPPED)
    rules = {f"{rule}-{kind}" for rule in ("bestup", "worstup") for kind in ("3-loss", "50-acc", "1m-acc")}
    assert set(s.strategies) == {"uniform", "bestup-3-loss-flat", *rules} and len(s.seeds) >= 3
    assert (s.space.name, s.wide_space.name) == ("glyphs_small", "glyphs_wide")


SECTION = yaml.safe_load(TEXT)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"measures": {}}, "measures is not a known key"),
        ({"measure": None}, "'measure' is missing"),
        ({"seeds": None}, "'seeds' is missing"),
        ({"train": SECTION["train"] | {"epoch": 1}}, r"train\.epoch is not a known key; did you mean 'epochs'"),
        ({"train": {"epochs": 1}}, r"train\.bucket_mflops is missing"),
        ({"measure": SECTION["measure"] | {"buckets": 1}}, r"measure\.buckets: .*found 1"),
        ({"strategies": ["uniform", "bestup-0-loss"]}, "strategies: there is no strategy 'bestup-0-loss'"),
        ({"strategies": ["uniform", "flat"]}, "strategies: there is no strategy 'flat'"),
        ({"strategies": ["bestup-3-loss", "uniform"]}, "strategies: the first is the baseline, uniform; found 'bestup-3-loss'"),
        ({"strategies": ["uniform", "bestup-3-loss", "uniform"]}, "strategies: a list of distinct names"),
        ({"strategies": []}, "strategies: a list of distinct names"),
        ({"strategies": "uniform"}, "strategies: a list of distinct names"),
        ({"seeds": [0, 1, 0]}, r"seeds: distinct non-negative integers .*found \[0, 1, 0\]"),
        ({"seeds": [-1]}, "seeds: distinct non-negative integers"),
        ({"seeds": [0.5]}, "seeds: distinct non-negative integers"),
        ({"seeds": []}, "seeds: distinct non-negative integers"),
        ({"seeds": 3}, "seeds: distinct non-negative integers"),
        ({"scratch": {"strategy": "bestup-4-loss", "models": 5}}, r"scratch\.strategy: 'bestup-4-loss' is not in strategies"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path, entries, message):
    """Of each kind, before anything long is begun."""
    file = changed(tmp_path, **entries)
    with pytest.raises(params.ParamsError, match=message) as caught:
        config.read(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("key", ["space", "wide_space"])
def test_a_space_that_is_not_there_is_named(tmp_path, key):
    """The file that the key names."""
    with pytest.raises(FileNotFoundError, match="no_such"):
        config.read(changed(tmp_path, **{key: "no_such.yaml"}))


@pytest.mark.parametrize(
    ("name", "rule", "k", "by", "base", "flat"),
    [
        ("uniform", "uniform", 1, "", "uniform", False),
        ("bestup-3-loss", "bestup", 3, "loss", "bestup-3-loss", False),
        ("bestup-3-loss-flat", "bestup", 3, "loss", "bestup-3-loss", True),
        ("worstup-50-acc-flat", "worstup", 50, "acc", "worstup-50-acc", True),
        ("worstup-1m-acc", "worstup", 1_000_000, "acc", "worstup-1m-acc", False),
    ],
)
def test_the_ending_flat_makes_targets_uniform(name, rule, k, by, base, flat):
    """The rest of the name means what it means without it."""
    form, found, uniform = config.form(name)
    assert (form.rule, form.k, form.by, found, uniform) == (rule, k, by, base, flat)


@pytest.mark.parametrize("name", ["-flat", "bestup-3-loss-flat-flat", "bestup-3-flat", 3])
def test_a_name_that_is_no_strategy(name):
    """An ending twice or alone, and a number; the message lists the forms."""
    with pytest.raises(params.ParamsError, match=r"strategies: there is no strategy .*worstup-50-acc.*-flat"):
        config.form(name)


@pytest.mark.parametrize("name", ["uniform-flat", "bestup-1m-acc-flat", "worstup-5k-acc-flat"])
def test_targets_that_are_not_drawn_can_not_be_flat(name):
    """Uniform sampling and offline sets have no cost target: the ending would be the same training under another name."""
    with pytest.raises(params.ParamsError, match=f"strategies: '{name}': .* draws no cost targets"):
        config.form(name)


@pytest.fixture(scope="module")
def divided(easy_set):
    """The easy set with 42 images to train on, 12 for the predictor and 6 to search on; classes are alike in each."""
    parts = np.repeat(["train", "predictor", "search", "val"], [42, 12, 6, 36])
    return replace(easy_set, parts=Parts(parts))


def test_a_partition_divides_the_same_images_anew(divided):
    """As many in each part, disjoint, together the same as before; the other parts stay; the argument is not modified."""
    before = divided.parts.parts.copy()
    found = training.partition(divided, 1)
    train, held_out = found.indices("train"), found.indices("predictor")
    assert (len(train), len(held_out)) == (42, 12) and not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(range(54))
    np.testing.assert_array_equal(found.parts.parts[54:], before[54:])
    np.testing.assert_array_equal(divided.parts.parts, before)


def test_a_partition_is_stratified(divided):
    """4 of the 12 held out are of each of the three equally frequent classes, whatever the seed."""
    for seed in range(5):
        found = training.partition(divided, seed)
        assert np.bincount(found.labels[found.indices("predictor")]).tolist() == [4, 4, 4]


def test_partitions_depend_on_their_seeds(divided):
    """The same for the same seed; of 12 images some differ for another one."""
    first, again, other = (training.partition(divided, seed).indices("predictor") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def torchs_mflops(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """(n,) MFLOPs as torch counts them in networks that run: two a multiply-accumulate."""
    found = []
    for arch in encoding.from_genes(rows):
        network = Network(space, arch, 3, device="meta").eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, arch.resolution, arch.resolution, device="meta"))
        found.append(counter.get_total_flops() / 2e6)
    return np.array(found)


def test_architectures_are_distinct_and_in_their_buckets(tiny_space, table):
    """4 in each third of the range of cost by torch's count, after the smallest and the largest; all alike in the next call."""
    rows = training.common_architectures(table, MEASURE)
    assert encoding.from_genes(rows[:2]) == [tiny_space.smallest(), tiny_space.largest()]
    assert len({tuple(row) for row in rows.tolist()}) == len(rows) == 14
    cost = torchs_mflops(tiny_space, rows)
    low, high = cost[:2]  # in this space also the cheapest and the most expensive
    third = (high - low) / 3
    assert np.histogram(cost[2:], [low, low + third, low + 2 * third, high])[0].tolist() == [4, 4, 4]
    np.testing.assert_array_equal(training.common_architectures(table, MEASURE), rows)
    np.testing.assert_allclose(comparisons.bucket_edges(table, 3), [low, low + third, low + 2 * third, high])


def test_every_architecture_of_a_bucket_has_the_same_chance(tiny_space, table, tiny_rows):
    """Of two buckets the first: 200 drawn without repetition have the mean cost of all in it, within three standard errors."""
    rows = training.common_architectures(table, MEASURE.model_copy(update={"buckets": 2, "architectures": 200}))
    costs = table.costs(tiny_rows)
    inside = costs[costs <= comparisons.bucket_edges(table, 2)[1]]
    error = inside.std() / np.sqrt(200)
    assert abs(table.costs(rows[2:202]).mean() - inside.mean()) < 3 * error


def test_more_architectures_than_there_are(table):
    """Of the 2304, no third holds 2000: the message says which key, and which costs."""
    with pytest.raises(ValueError, match=r"measure\.architectures: 2000 different ones .* has fewer between .* MFLOPs"):
        training.common_architectures(table, MEASURE.model_copy(update={"architectures": 2000}))


@pytest.fixture(scope="module")
def score(tiny_space, easy_set) -> Scorer:
    """Of a supernet with random weights; calibrated on 60 images, measured on 36."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        supernet = Supernet(tiny_space, 3, zero_init=False)
    calibration, held_out = (EvaluationBatches(easy_set, easy_set.indices(part), 60) for part in ("train", "val"))
    return Scorer(supernet, calibration, held_out, torch.device("cpu"))


def measured(table, score, seed, folder, run) -> Archive:
    with Checkpoint(folder, "measure", "0" * 16) as checkpoint:
        return training.measure(table, score, MEASURE, seed, run, checkpoint)


@pytest.fixture(scope="module")
def undisturbed(table, score, tmp_path_factory) -> tuple[Archive, Curves]:
    """Measured with seed 0 in one go."""
    run = Curves()
    return measured(table, score, 0, tmp_path_factory.mktemp("undisturbed"), run), run


def test_measuring_takes_the_budget(undisturbed, score, table):
    """14 for all, then two rounds of 3 mutations and 3 crossovers, none twice; scores are the scorer's; figures after each round."""
    found, run = undisturbed
    assert np.bincount(found.round).tolist() == [14, 6, 6]
    np.testing.assert_array_equal(found.rows[:14], training.common_architectures(table, MEASURE))
    assert len({tuple(row) for row in found.rows.tolist()}) == 26
    assert found.score[[0, 20]].tolist() == [score.top1(arch) for arch in encoding.from_genes(found.rows[[0, 20]])]
    final = search_metrics(found.cost, found.score, (table.smallest, table.largest), 100 / 3)
    assert sorted(run.steps) == [14, 20, 26] and run.steps[26] == {f"search/{key}": value for key, value in final.items()}


@pytest.mark.parametrize(("after", "kept"), [(5, 0), (17, 14)])
def test_evaluation_resumes_after_an_interruption(undisturbed, table, score, tmp_path, monkeypatch, after, kept):
    """Ctrl-C after so many sub-networks, then again: it goes on from the last whole round, and nothing differs from one go."""
    calls, stop, top1 = [], True, score.top1

    def interrupted(arch):
        calls.append(arch)
        if stop and len(calls) > after:
            raise KeyboardInterrupt
        return top1(arch)

    run = Curves()
    with monkeypatch.context() as patch:
        patch.setattr(score, "top1", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measured(table, score, 0, tmp_path, run)
        calls.clear()
        stop = False
        found = measured(table, score, 0, tmp_path, run)
    whole, curves = undisturbed
    assert all(np.array_equal(a, b) for a, b in zip(found.to_arrays().values(), whole.to_arrays().values()))
    assert run.steps == curves.steps
    assert len(calls) == 26 - kept


def test_seeds_share_only_the_first_round(undisturbed, table, score, tmp_path):
    """The same architectures are measured for every seed; evolution from there is drawn by the seed."""
    first, _ = undisturbed
    other = measured(table, score, 1, tmp_path, Curves())
    np.testing.assert_array_equal(first.rows[:14], other.rows[:14])
    assert {tuple(r) for r in first.rows[14:].tolist()} != {tuple(r) for r in other.rows[14:].tolist()}
