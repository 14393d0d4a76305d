"""nas.differentiable.tf_nas.search: targets met, resumable, and the parts of the method by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.data.augmentation import Augmentation
from nas.data.loader import TrainingBatches
from nas.differentiable.tf_nas.config import EarlyStopping, SearchConfig
from nas.differentiable.tf_nas.scaling import bound, step
from nas.differentiable.tf_nas.search import Search, order_is_stable, same_operation, sample_classes
from nas.differentiable.tf_nas.supernet import Supernet
from nas.training.recipe import Runtime
from tests.differentiable.tf_nas.tiny import TINY, random_table

RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=True)
CONFIG = SearchConfig.model_validate(
    {
        "epochs": 4,
        "weight_epochs": 1,
        "batch": 10,
        "weights": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-5, "clip_norm": 5.0},
        "architecture_parameters": {"learning_rate": 0.05, "betas": (0.5, 0.999), "weight_decay": 5e-4, "every": 2},
        "temperature": {"start": 5.0, "factor": 0.96},
        "trade_off": 0.1,
        "bi_sampling": True,
        "elasticity_scaling": True,
        "early_stopping": None,
    }
)
PLAIN = Augmentation(crop_scale=(1.0, 1.0), flip=False, policy="none")


@pytest.fixture
def begin(easy_set):
    """A search on 40 images for the weights and 20 for alpha and beta."""

    def begin(seed: int = 0, **changes) -> Search:
        items = easy_set.indices("train")
        parts = [TrainingBatches(easy_set, part, 10, PLAIN, seed) for part in (items[:40], items[40:])]
        torch.manual_seed(seed)
        return Search(Supernet(TINY, 3), random_table(TINY), CONFIG.model_copy(update=changes), *parts, seed, RUNTIME, torch.device("cpu"))

    return begin


def middle(search: Search) -> float:
    low, high = search.table.range_ms
    return (low + high) / 2


def run(search: Search, target: float | None = None) -> Search:
    while not search.ended:
        search.epoch(middle(search) if target is None else target)
    return search


def same(a: Search, b: Search) -> bool:
    """Bit for bit: weights, architecture parameters, widths and history."""
    tensors = zip([*a.supernet.parameters(), *a.architecture.parameters()], [*b.supernet.parameters(), *b.architecture.parameters()])
    return all(torch.equal(p, q) for p, q in tensors) and np.array_equal(a.widths, b.widths) and a.history == b.history


def test_the_derived_network_has_the_target_latency(begin):
    """By the table it is within the target, and one more step of the last stage would not be, unless a bound is reached."""
    search = run(begin())
    target, arch, table = middle(search), search.arch, search.table
    assert search.history[-1].latency_ms == table.latency_ms(arch)
    assert bound(table, arch, target) is not None or table.latency_ms(arch) <= target
    wider = step(table, arch, [1], +1)
    assert bound(table, arch, target) == "least" or wider == arch or table.latency_ms(wider) > target


def test_a_resumed_search_ends_with_the_same_network(begin, tmp_path):
    """Saved and loaded between two epochs, it ends in the same bits."""
    whole, first, second = run(begin()), begin(), begin()
    for _ in range(2):
        first.epoch(middle(first))
    torch.save(first.state(), tmp_path / "state.pt")
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(run(second), whole)


def test_weights_only_epochs_have_no_target(begin):
    """They change weights only, so searches for any target can resume from them; later epochs need a target."""
    search = begin()
    before = [p.detach().clone() for p in search.architecture.parameters()]
    row = search.epoch(None)
    assert all(torch.equal(p, q) for p, q in zip(before, search.architecture.parameters()))
    assert np.array_equal(search.widths, TINY.start_widths()) and row.loss_other == row.loss_mixture == 0 < row.loss_drawn
    with pytest.raises(ValueError, match="target latency is needed"):
        search.epoch(None)


def test_a_large_trade_off_drives_the_expected_latency(begin):
    """Where the latency term dominates, LAT falls towards a low target and rises towards a high one."""
    fast, ends = CONFIG.architecture_parameters.model_copy(update={"learning_rate": 0.5, "every": 1}), []
    for pick in (0, 1):
        search = begin(trade_off=100.0, elasticity_scaling=False, epochs=3, architecture_parameters=fast)
        run(search, search.table.range_ms[pick])
        ends.append([row.expected_latency_ms for row in search.history])
    (start, *_, low), (_, *_, high) = ends
    assert low < 0.8 * start and high > 1.2 * start


def test_without_scaling_widths_do_not_change(begin):
    """They stay at the start widths."""
    assert np.array_equal(run(begin(elasticity_scaling=False)).widths, TINY.start_widths())


def test_bi_sampling_trains_operations_off_the_first_path(begin):
    """With alpha on one operation per layer, the others learn with a second path and not without."""
    for second in (True, False):
        search = begin(bi_sampling=second, weight_epochs=0, trade_off=0.0)
        with torch.no_grad():
            search.architecture.alpha.copy_(torch.tensor([50.0, 0.0, 0.0]).expand(5, 3))
        search.architecture.project()
        before = [[op.project.detach().clone() for op in layer[1:]] for layer in search.supernet.layers]
        row = search.epoch(middle(search))
        moved = [
            any(not torch.equal(op.project, p) for op, p in zip(layer[1:], projections))
            for layer, projections in zip(search.supernet.layers, before)
        ]
        assert all(moved) if second else not any(moved)
        assert (row.loss_other > 0) == second


def test_a_search_learns(begin):
    """The loss of drawn paths falls below chance level of three classes."""
    search = run(begin(epochs=12))
    assert search.history[-1].loss_drawn < 0.8 * np.log(3)


def test_diverged_weights_raise(begin):
    """The message has the keys to change."""
    search = begin()
    with torch.no_grad():
        search.supernet.classifier.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"lower search\.method\.weights\.learning_rate"):
        search.epoch(None)


def test_early_stopping_by_hand():
    """Three of four layers have a stable order over two epochs; with one more change they do not."""
    stable, other = np.array([[0.1, 0.2, 0.7]] * 4), np.array([[0.1, 0.2, 0.7]] * 3 + [[0.7, 0.2, 0.1]])
    rule = EarlyStopping(layers=0.75, epochs=2)
    assert not order_is_stable([stable, stable], rule)
    assert order_is_stable([stable, other, stable], rule)
    assert not order_is_stable([stable, other, other[::-1]], rule)


def test_early_stopping_ends_the_search(begin):
    """With a tiny learning rate of alpha, before the last epoch."""
    slow = CONFIG.architecture_parameters.model_copy(update={"learning_rate": 1e-9})
    search = begin(epochs=20, architecture_parameters=slow, early_stopping=EarlyStopping(layers=0.5, epochs=2))
    assert len(run(search).history) < 20


def test_collapse_by_hand():
    """Two of three layers share their strongest operation."""
    assert same_operation(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])) == pytest.approx(2 / 3)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=60), st.integers(2, 60), st.integers(0, 99))
def test_one_class_is_drawn_from_each_group(accuracy, groups, seed):
    """Sorted by accuracy, the i-th drawn class is in the i-th group."""
    groups = min(groups, len(accuracy))
    classes = sample_classes(np.array(accuracy), groups, np.random.default_rng(seed))
    ranks = np.sort(np.argsort(np.argsort(accuracy, kind="stable"))[classes])
    parts = np.array_split(np.arange(len(accuracy)), groups)
    assert len(set(classes.tolist())) == groups and all(rank in part for rank, part in zip(ranks, parts))


def test_more_groups_than_classes_are_refused():
    """The message has the range of groups."""
    with pytest.raises(ValueError, match="from 2 to 3 are possible"):
        sample_classes(np.arange(3.0), 4, np.random.default_rng(0))
