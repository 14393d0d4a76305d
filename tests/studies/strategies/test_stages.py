"""The comparison's stages: which strategy a name stands for, and networks trained from scratch."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from nas.cost import flops
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.data.splits import Parts
from nas.evaluation.evaluate import Scorer
from nas.evaluation.metrics import best_front, worst_front
from nas.models.extract import Network
from nas.models.supernet import Supernet
from nas.runtime.checkpoint import Checkpoint
from nas.sampling import attentive
from nas.sampling.attentive import BestUp, FromSet, Uniform, WorstUp
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.search.predictor import Forest
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, StageArch
from studies.strategies import config, distill, scratch, training

SHIPPED = config.read(config.FILE.resolve())
TRAIN = config.Train(epochs=1, bucket_mflops=0.05)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tiny_space):
    return flops.table(tiny_space, 3)


@pytest.fixture
def forests(tmp_path, monkeypatch, table, tiny_rows) -> dict[int, Forest]:
    """The predictors of seeds 0 and 1 where the stages look for them; the first likes costly networks, the other cheap ones."""
    monkeypatch.setattr(config.Pipeline, "outputs", tmp_path)
    cost, found = table.costs(tiny_rows), {}
    for seed, sign in ((0, 1), (1, -1)):
        (tmp_path / "pretrain" / str(seed)).mkdir(parents=True)
        found[seed] = Forest.fit(tiny_rows[::8], sign * cost[::8], trees=2, max_depth=4, seed=0)
        found[seed].save(tmp_path / "pretrain" / str(seed) / "forest.npz")
    return found


def test_uniform_has_no_constraint(table, monkeypatch, tmp_path):
    """It needs neither cost targets nor a predictor."""
    monkeypatch.setattr(config.Pipeline, "outputs", tmp_path)
    found = training.sampling("uniform", table, TRAIN, 0)
    assert found == Uniform(Unconstrained(table.space))


@pytest.mark.parametrize(("name", "kind"), [("bestup-3-loss", BestUp), ("worstup-3-loss", WorstUp)])
def test_by_the_loss(table, monkeypatch, tmp_path, name, kind):
    """Three candidates under one target, which the step's own loss chooses among; no predictor is read."""
    monkeypatch.setattr(config.Pipeline, "outputs", tmp_path)
    found = training.sampling(name, table, TRAIN, 0)
    assert type(found) is kind and found.k == 3 and found.predictor is None
    drawn = [encoding.to_genes(found.candidates(np.random.default_rng(i))) for i in range(9)]
    targets = [np.unique(np.floor(table.costs(rows) / 0.05 + 0.5)) for rows in drawn]
    assert all(len(rows) == 3 and len(t) == 1 for rows, t in zip(drawn, targets)) and len(np.unique(targets)) > 1


@pytest.mark.parametrize(("name", "kind", "pick"), [("bestup-50-acc", BestUp, max), ("worstup-50-acc", WorstUp, min)])
@pytest.mark.parametrize("seed", [0, 1])
def test_by_the_predictor_of_its_seed(table, forests, name, kind, pick, seed):
    """One candidate is left, the one of the 50 drawn that this seed's forest puts first, or last."""
    found = training.sampling(name, table, TRAIN, seed)
    assert type(found) is kind and found.k == 50
    drawn = found.propose(50, np.random.default_rng(3))
    predicted = forests[seed].predict(encoding.to_genes(drawn))
    assert found.candidates(np.random.default_rng(3)) == [drawn[predicted.tolist().index(pick(predicted))]]


@pytest.mark.parametrize(("name", "front"), [("bestup-20k-acc", best_front), ("worstup-20k-acc", worst_front)])
def test_from_an_offline_set(table, forests, tiny_rows, name, front):
    """20,000 draws hold all 2304 architectures, so the set's points are the front of the whole space under the forest."""
    found = training.sampling(name, table, TRAIN, 0)
    assert type(found) is Uniform and isinstance(found.propose, FromSet)

    def points(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return table.costs(rows), forests[0].predict(rows)

    cost, predicted = points(tiny_rows)
    chosen = front(cost, predicted)
    expected = set(zip(cost[chosen].tolist(), predicted[chosen].tolist()))
    cost, predicted = points(encoding.to_genes(list(found.propose.models)))
    assert set(zip(cost.tolist(), predicted.tolist())) == expected
    assert training.sampling(name, table, TRAIN, 0).propose == found.propose  # a resumed run draws the same set


def test_the_whole_list_of_the_shipped_parameters(table, forests, monkeypatch):
    """Each name gives a strategy that proposes one architecture to train, or three to choose from; the million is a thousand here."""
    strategy = attentive.strategy_by_name
    monkeypatch.setattr(attentive, "strategy_by_name", lambda name, *args, **rest: strategy(name.replace("1m", "1k"), *args, **rest))
    counts = {name: len(training.sampling(name, table, TRAIN, 0).candidates(np.random.default_rng(0))) for name in SHIPPED.strategies}
    assert counts == {name: 3 if "loss" in name else 1 for name in SHIPPED.strategies}


@pytest.mark.parametrize(("name", "flat"), [("bestup-3-loss", False), ("bestup-3-loss-flat", True)])
def test_targets_are_from_the_prior_or_flat(table, tiny_rows, name, flat):
    """Chi-square over 3000 targets: shares of all 2304 architectures by bucket, or equal; and the other one is ruled out."""
    propose = training.sampling(name, table, TRAIN, 0).propose
    assert isinstance(propose, UnderTarget)
    numbers, counts = np.unique(np.floor(table.costs(tiny_rows) / 0.05 + 0.5), return_counts=True)
    rng = np.random.default_rng(0)
    drawn = np.array([round(propose.prior.draw(rng) / 0.05) for _ in range(3000)])
    assert set(drawn) <= set(numbers)
    often = counts / counts.sum() * 3000 > 5
    found = np.array([(drawn == n).sum() for n in numbers])[often]
    expected = counts[often], np.ones(often.sum())
    p = [stats.chisquare(found, e / e.sum() * found.sum()).pvalue for e in expected]
    assert p[flat] > 0.001 > 1e-9 > p[not flat]


@pytest.mark.parametrize("name", ["adaptive", "clip-20", "temperature-4"])
def test_distilling_changes_the_loss_and_nothing_else(monkeypatch, name):
    """Uniform sampling on the same space with the parameters of `train`, but for recipe.distillation; a run of that name."""
    opened, called, finished = [], [], []

    @contextmanager
    def stage(*args, **kwargs):
        opened.append((*args, kwargs))
        yield SimpleNamespace(finish=finished.append)

    monkeypatch.setattr(config, "read", lambda: SHIPPED)
    monkeypatch.setattr(distill.runner, "stage", stage)
    monkeypatch.setattr(training, "train_and_measure", lambda *args: called.append(args) or {"evaluations": 5})
    distill.main(name, 2)

    ((strategy, seed, space, s, _),) = called
    assert (strategy, seed, space, finished) == ("uniform", 2, SHIPPED.space, [{"evaluations": 5}])
    assert s.recipe.distillation == SHIPPED.losses[name] != SHIPPED.recipe.distillation
    back = s.recipe.model_copy(update={"distillation": SHIPPED.recipe.distillation})
    assert replace(s, recipe=back) == SHIPPED
    ((stage_name, parameters, pipeline, names),) = opened
    expected = {
        "key": f"{name}-2",
        "title": f"uniform, {name}, seed 2",
        "prefix": "search",
        "strategy": f"uniform, {name}",
        "shares": False,
    }
    assert (stage_name, pipeline, names) == ("distill", config.PIPELINE, expected)
    assert parameters["recipe"].distillation == SHIPPED.losses[name]


@pytest.fixture(scope="module")
def arch(tiny_space):
    """Its last stage is narrower than the widest, its kernel is the smaller one in the first."""
    stages = StageArch(width=16, depth=1, kernel=3, expansion=1), StageArch(width=24, depth=2, kernel=5, expansion=3)
    return tiny_space.check(Arch(resolution=16, stem=8, stages=stages, head=48))


def test_a_new_network_is_the_architecture(tiny_space, arch):
    """Its weights have the shapes of a network built for these sizes, and its own resolution."""
    found, expected = scratch.new_network(tiny_space, arch, 3, 0, zero_init=False), Network(tiny_space, arch, 3)
    assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}
    assert found.resolution == 16


def test_new_weights_depend_on_their_seed(tiny_space, arch):
    """The same for the same seed, others for another one; drawn for 24 output channels, not for the 32 that the space goes up to."""
    first, again, other = (scratch.new_network(tiny_space, arch, 3, seed, zero_init=False) for seed in (5, 5, 6))
    assert torch.equal(first.head_mix.weight, again.head_mix.weight)
    assert not torch.equal(first.head_mix.weight, other.head_mix.weight)
    project = first.stages[1][0].project.weight
    assert project.numel() == 24 * 48 and project.std().item() == pytest.approx((2 / 24) ** 0.5, rel=0.08)  # He, by fan-out


@pytest.mark.parametrize("zero_init", [True, False])
def test_blocks_of_a_new_network_start_by_zero_init(tiny_space, arch, zero_init):
    """With zero_init every block's last batch norm has the scale 0, so that the block is its shortcut; without it, 1."""
    network = scratch.new_network(tiny_space, arch, 3, 0, zero_init)
    scales = torch.cat([block.project_bn.weight for stage in network.stages for block in stage])
    assert torch.equal(scales, torch.full_like(scales, 0.0 if zero_init else 1.0))


class FromScratch:
    """The stage's function on the easy set, 40 images to train on and 20 beside, tested on the other 36."""

    def __init__(self, space, easy_set) -> None:
        parts = np.repeat(["train", "predictor", "test"], [40, 20, 36])
        self.data = replace(easy_set, parts=Parts(parts))
        recipe = SHIPPED.recipe.model_copy(update={"batch": 20, "warmup_epochs": 0.0, "learning_rate": 2.0, "dropout": 0.0})
        self.s = replace(
            SHIPPED,
            space=space,
            recipe=recipe,
            runtime=SHIPPED.runtime.model_copy(update={"device": "cpu"}),
            evaluation=SHIPPED.evaluation.model_copy(update={"batch": 20}),
            train=TRAIN.model_copy(update={"epochs": 8}),
        )
        held_out = EvaluationBatches(self.data, self.data.indices("test"), 36)
        with torch.random.fork_rng(devices=[]):
            self.test = Scorer(Supernet(space, 3), held_out, held_out, CPU)  # of which only the images are used

    def __call__(self, arch, folder, seed: int = 0, name: str = "a0") -> float:
        with Checkpoint(folder, "scratch", "0" * 16) as checkpoint:
            try:
                return scratch.train_from_scratch(arch, name, self.data, self.s, seed, CPU, self.test, checkpoint)
            finally:
                self.files = sorted(p.name for p in checkpoint.folder.glob("*.pt"))


@pytest.fixture(scope="module")
def from_scratch(tiny_space, easy_set) -> FromScratch:
    return FromScratch(tiny_space, easy_set)


@pytest.fixture(scope="module")
def undisturbed(from_scratch, arch, tmp_path_factory) -> float:
    return from_scratch(arch, tmp_path_factory.mktemp("undisturbed"))


def test_a_network_trained_from_scratch_learns(undisturbed):
    """On images of three colours, beyond what guessing does in one of a million trials of 36."""
    assert undisturbed > 100 * stats.binom.ppf(1 - 1e-6, 36, 1 / 3) / 36


def test_training_from_scratch_resumes_after_an_interruption(from_scratch, arch, undisturbed, tmp_path, monkeypatch):
    """Ctrl-C in the fourth epoch: three are not trained again, and the number is that of an undisturbed run."""
    epochs, epoch = [], TrainingBatches.epoch

    def interrupted(batches, number):
        epochs.append(number)
        if epochs == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return epoch(batches, number)

    monkeypatch.setattr(TrainingBatches, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        from_scratch(arch, tmp_path)
    assert from_scratch(arch, tmp_path) == undisturbed
    assert epochs == [0, 1, 2, 3, 3, 4, 5, 6, 7]


def test_a_finished_training_is_not_repeated(from_scratch, arch, tmp_path, monkeypatch):
    """A run that was interrupted with a later model reads this one's number."""
    with Checkpoint(tmp_path, "scratch", "0" * 16) as checkpoint:
        checkpoint.save({"top1": 12.5}, "a0-done.pt")
        monkeypatch.setattr(scratch, "fine_tune", None)
        assert scratch.train_from_scratch(arch, "a0", from_scratch.data, from_scratch.s, 0, CPU, from_scratch.test, checkpoint) == 12.5


def test_training_from_scratch_uses_the_images_of_the_supernet(from_scratch, arch, tmp_path, monkeypatch):
    """All 60 of train and predictor, as `train` does, for as many epochs and by the same rate; another seed and model begin elsewhere."""
    seen, weights = [], []

    def tune(network, batches, setting, how, *rest):
        seen.append((sorted(batches.indices.tolist()), how.epochs, setting.learning_rate))
        weights.append(network.stem.weight.detach().clone())

    monkeypatch.setattr(scratch, "fine_tune", tune)
    for i, (seed, name) in enumerate([(0, "a0"), (1, "a0"), (0, "a1")]):
        from_scratch(arch, tmp_path / str(i), seed, name)
    assert seen == [(list(range(60)), 8, 2.0 * 20 / 256)] * 3
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
