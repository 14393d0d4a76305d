"""Curves of a training, and the warning that the supernet has collapsed."""

import pytest

from nas.training.curves import log_epochs
from nas.training.recipe import Recipe
from nas.training.trainer import Epoch


class Run:
    """Records what is logged."""

    def __init__(self) -> None:
        self.logged, self.tags = [], []

    def log(self, metrics, step):
        self.logged.append((metrics, step))

    def tag(self, **tags):
        self.tags.append(tags)


def logged(easy_set, warmup: float, *top1: float) -> Run:
    """Epochs in which the largest network has these accuracies, on 36 images of 3 classes."""
    run = Run()
    on_epoch = log_epochs(run, "train", easy_set, Recipe.model_construct(warmup_epochs=warmup))
    for i, percent in enumerate(top1, 1):
        on_epoch(Epoch(i, 0.1, 1.0, 1.0, 1.0, percent, percent))
    return run


@pytest.mark.parametrize(("top1", "collapsed"), [(33.3, True), (50.0, True), (55.6, False), (90.0, False)])
def test_chance_level_after_warm_up_is_reported(easy_set, capsys, top1, collapsed):
    """99 of 100 random classifiers of three classes are right on at most 19 of 36 images (binomial): 52.8 %. One warning, with advice."""
    run = logged(easy_set, 1.0, 33.3, top1, top1)
    out = capsys.readouterr().out
    assert len(run.tags) == collapsed and out.count("Has the supernet collapsed? Lower params.yaml recipe.learning_rate") == collapsed
    assert not collapsed or "epoch 2" in run.tags[0]["collapsed"]


def test_no_warning_during_warm_up(easy_set):
    """Chance level is expected then; every epoch is logged under the stage's name."""
    run = logged(easy_set, 2.0, 33.3, 33.3)
    assert not run.tags and [step for _, step in run.logged] == [1, 2]
    assert run.logged[0][0]["train/top1_largest"] == 33.3 and "train/epoch" not in run.logged[0][0]
