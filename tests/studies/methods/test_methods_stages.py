"""All methods side by side: parameters, torchvision's networks for small images, compute by hand, verdicts and the page."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from nas.cost import flops
from nas.data.torchvision_import import models
from nas.latency.backends.config import Torch
from nas.models.fuse import fold
from nas.plots import style
from nas.runtime import params, presets
from nas.runtime.params import ParamsError
from nas.sampling.attentive import BestUp, Uniform
from nas.sampling.uniform import Unconstrained
from nas.training.strategy import Train
from studies.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from studies.methods import compute, config, oneshot, page
from studies.methods.compute import Compute
from studies.methods.report import measure, metric_name, predictions
from studies.methods.results import METHODS
from studies.methods.torchvision_networks import TorchvisionNetwork, build
from tests.stages.differentiable_runs import change

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped parameters; the current folder is the project's root."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(config.PIPELINE.parameters, tmp_path / "params.yaml"))


def test_the_preset_fits(file):
    """Every key of it is one of the parameters, and the result can be read."""
    presets.apply("smoke", file, ROOT / config.PIPELINE.folder / "presets")
    assert config.read(file).oneshot.targets == ("a",)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("baselines", "networks"), [{"model": "no_such_net", "width": None}], "baselines.networks.0: .*no_such_net"),
        (("baselines", "networks"), [{"model": "shufflenet_v2_x0_5", "width": 0.5}], "width_mult"),
        (("baselines", "networks"), [{"model": "vit_b_16", "width": None}], "halves an image 0 times"),
        (("baselines", "networks"), [{"model": "mobilenet_v2", "width": 0.25} for _ in range(2)], "mobilenet_v2 0.25 is listed twice"),
        (("alphanet", "distillation", "loss"), "beta", "alphanet.distillation.loss"),
        (("oneshot", "evolution", "population"), 1, "oneshot.evolution.population"),
        (("report", "backend"), {"runtime": "onnxruntime", "threads": 1}, "report.backend"),
        (("sed",), 1, "sed is not a known key"),
    ],
)
def test_errors_in_the_parameters_are_named(file, keys, value, message):
    """Before any stage runs, with the key."""
    change(file, keys, value)
    with pytest.raises(ParamsError, match=message):
        config.read(file)


@pytest.mark.parametrize(
    ("model", "last"), [("mobilenet_v3_small", "features"), ("mobilenet_v2", "features"), ("shufflenet_v2_x0_5", "conv5")]
)
def test_torchvisions_networks_halve_three_times(model, last):
    """24 pixels come to 3 before the pool; torchvision's parameters otherwise, one dropout, and batch norms that can be folded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(TorchvisionNetwork(model=model, width=None), 5).eval()
    sides = []
    getattr(network.network, last).register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        logits, folded = network(images), fold(network)(images)
    assert sides[0] == 3 and logits.shape == (2, 5)
    torch.testing.assert_close(folded, logits, atol=1e-5, rtol=1e-4)
    theirs = models.get_model(model, weights=None, num_classes=5)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert [m for m in network.modules() if isinstance(m, nn.Dropout)] == [network.dropout]


def test_work_is_images_times_passes():
    """10 images of 2 million multiply-accumulates, three times each: 60 million."""
    work = Compute("training", 10, 2.0, compute.WEIGHTS, "a")
    assert work.total == 60 and compute.frame([work])["tmacs"].tolist() == [60 / 1e6]


def test_multiply_accumulates_are_torchs():
    """3 -> 8 channels, 3x3, 16x16 out, then 8 -> 2 classes: 55 296 + 16."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert compute.network_mmacs(network, 16) == pytest.approx(0.055312)


def section(strategy: str) -> Train:
    return Train(epochs=2, search_epoch=1, strategy=strategy, targets="prior", sampler="exact", bucket_mflops=0.05, pool=10)


def test_the_cost_of_a_sandwich(tiny_space, tiny_rows):
    """100 images in 2 epochs, by hand: largest, 2 of mean size and smallest learn; with 3 candidates each, 6 more go forward."""
    recipe = params.check(yaml.safe_load((ROOT / "params.yaml").read_text()), "recipe", compute.Recipe)
    table = flops.table(tiny_space, 10)
    mean, ends = table.costs(tiny_rows).mean(), [table.cost(a) for a in (tiny_space.largest(), tiny_space.smallest())]
    learnt = 200 * 3 * (sum(ends) + 2 * mean)
    uniform = compute.sandwich(section("uniform"), recipe, table, Uniform(Unconstrained(tiny_space)), 100, 0)
    assert sum(c.total for c in uniform) == pytest.approx(learnt, rel=0.03)
    best = compute.sandwich(section("bestup-3-loss"), recipe, table, BestUp(Unconstrained(tiny_space), 3), 100, 0)
    assert sum(c.total for c in best) == pytest.approx(learnt + 200 * 6 * mean, rel=0.03)


def test_the_cost_of_a_search():
    """Networks of 1 and 3 MFLOPs on 50 images each: 200."""
    assert compute.evaluations(pd.DataFrame({"mflops": [1.0, 3.0]}), 50).total == 200


def test_one_shot_costs_lie_where_they_must():
    """A network for each image costs more than the smallest network; all configurations at once more than any network."""
    s = compute.hardcore_nas.read()
    multi, mixed = compute.one_shot_mmacs(s, 10)
    rng = np.random.default_rng(0)
    own = np.mean([compute.multiply_adds(s.space.plan(s.space.random(rng)), 10).products for _ in range(300)]) / 1e6
    largest = compute.multiply_adds(s.space.plan(s.space.largest()), 10).products / 1e6
    assert own < multi < mixed and largest < mixed  # the expansion is computed at its widest


def test_tf_nas_mixture_holds_every_path():
    """All operations at once cost more than a path, and less than as many paths, which have stem, head and classifier each."""
    s = compute.tf_nas.read()
    path, mixture = compute.supernet_mmacs(s, 10)
    assert path < mixture < len(s.space.operations) * path


class Kept:
    """Keeps nothing."""

    def save(self, state: dict, name: str) -> None: ...

    def load(self, name: str) -> None: ...


class Fixed(nn.Module):
    """Names the same class for every image; a convolution, so that there is something to measure."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer, self.conv = answer, nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).mean((2, 3)) * 0 + torch.eye(3)[self.answer]


def test_answers_are_compared_image_by_image():
    """Of classes 0, 1, 1 | 2: who always says 1 is right at the second and the third."""
    images = [(torch.zeros(len(labels), 3, 4, 4), torch.tensor(labels)) for labels in ([0, 1, 1], [2])]
    right = predictions([Fixed(1).eval(), Fixed(2).eval()], images, torch.device("cpu"))
    assert right.tolist() == [[False, True, True, False], [False, False, False, True]]


def test_every_network_is_measured_in_every_round():
    """As many rounds as asked for; milliseconds above zero, noise a fraction, and the device by name."""
    p = config.Report(backend=Torch(runtime="torch", device="cpu", threads=1, channels_last=True), batch=2, repetitions=4, limit_s=60.0)
    found = measure([Fixed(0).eval(), Fixed(1).eval(), Fixed(2).eval()], 8, p, 0, Kept())
    assert found.rounds == 4 and found.latency_ms.shape == found.noise.shape == (3,)
    assert (found.latency_ms > 0).all() and (found.noise >= 0).all() and found.device["threads"] == 1


def networks() -> pd.DataFrame:
    """Two or three networks per method, synthetic: later methods are slower and better."""
    rows = [
        {"method": method, "network": f"{'abc'[i]}", "latency_ms": 1.0 + i + 0.1 * m, "noise": 0.01, "mflops": 0.5 + i, "parameters": 1000}
        for m, method in enumerate(METHODS)
        for i in range(2 + (m == 0))
    ]
    return pd.DataFrame(rows)


def test_networks_are_compared_at_equal_latency():
    """The slowest that takes at most 5 % longer, whatever its accuracy; the error is that of the differences image by image."""
    ms = {("TF-NAS", "a"): 1.0, ("TF-NAS", "b"): 2.09, ("AlphaNet", "a"): 0.9, ("AlphaNet", "b"): 2.0, ("AlphaNet", "c"): 3.0}
    frame = pd.DataFrame([{"method": m, "network": n, "latency_ms": value} for (m, n), value in ms.items()])
    rng = np.random.default_rng(0)
    right = rng.random((5, 400)) < np.array([0.5, 0.9, 0.5, 0.7, 0.8])[:, None]
    found, without = page.network_pairs(frame, right, "TF-NAS", "AlphaNet")
    assert without == 1 and [(c.network, c.other) for c in found] == [("b", "b"), ("b", "c")]
    apart = right[1].astype(int) - right[3].astype(int)
    assert found[0].difference == pytest.approx(100 * (right[1].mean() - right[3].mean()))
    assert found[0].error == pytest.approx(100 * np.sqrt(apart.var(ddof=1) / 400))
    assert found[0].latency_ratio == pytest.approx(1.045) and found[0].verdict == SUPPORTED
    assert page.verdict(found, without) == "supported; none as fast as 1 more"


def test_searches_for_the_same_targets_are_compared_target_by_target():
    """Though the network of HardCoRe-NAS is slower by more than 5 %; a target that only one has is passed over."""
    ms = {
        ("HardCoRe-NAS", "a"): 1.0,
        ("HardCoRe-NAS", "b"): 1.5,
        ("HardCoRe-NAS", "c"): 2.0,
        ("evolution", "a"): 0.9,
        ("evolution", "c"): 1.7,
    }
    frame = pd.DataFrame([{"method": m, "network": n, "latency_ms": value} for (m, n), value in ms.items()])
    found, without = page.network_pairs(frame, np.random.default_rng(0).random((5, 50)) < 0.5, "HardCoRe-NAS", "evolution")
    assert without == 0 and [(c.network, c.other) for c in found] == [("a", "a"), ("c", "c")]


@pytest.mark.parametrize(
    ("difference", "error", "latency_ratio", "word"),
    [
        (2.0, 1.0, 1.0, SUPPORTED),
        (-2.5, 1.0, 0.9, NOT_SUPPORTED),
        (-2.5, 1.0, 0.8, INCONCLUSIVE),
        (1.9, 1.0, 1.0, INCONCLUSIVE),
        (0.0, 0.0, 1.0, INCONCLUSIVE),
    ],
)
def test_a_verdict_needs_two_standard_errors(difference, error, latency_ratio, word):
    """Either way; and what is much faster is not called worse."""
    assert page.NetworkPair("a", "b", difference, error, latency_ratio).verdict == word


def test_costs_are_shared_or_for_a_network():
    """100 for all and 10 and 30 for two networks: 20 for one more, 140 in all."""
    works = [Compute("supernet", 100e6, 1.0, 1), Compute("tuning", 10e6, 1.0, 1, "a"), Compute("tuning", 30e6, 1.0, 1, "b")]
    frame = compute.frame(works).assign(method="TF-NAS")
    totals = page.total_compute(frame, pd.DataFrame({"method": ["TF-NAS"] * 2}))
    assert totals.to_dict("records") == [{"method": "TF-NAS", "networks": 2, "shared": 100.0, "another": 20.0, "total": 140.0}]


def test_the_page_shows_everything(tmp_path):
    """Every method, network and question; tables whose rows have as many cells as their head; the same input, the same page."""
    frame = networks()
    right = np.random.default_rng(0).random((len(frame), 300)) < np.linspace(0.6, 0.9, len(frame))[:, None]
    frame["top1"] = 100 * right.mean(1)
    costs = pd.concat([compute.frame([Compute("training", 100.0, 1.0, 3, "a")]).assign(method=method) for method in METHODS])
    text = page.page(frame, right, costs, {"data": "letters"}, "methods.png")
    assert text == page.page(frame, right, costs, {"data": "letters"}, "methods.png")
    assert all(method in text for method in METHODS) and "![" in text and "letters" in text
    assert all(claim in text for _, _, claim in page.CLAIMS)
    for block in text.split("\n\n"):
        if block.startswith("| "):
            assert len({row.count(" | ") for row in block.splitlines()}) == 1
    left, other = page.charts(frame, 32)
    assert [s.name for s in left.series] == list(METHODS) == [s.name for s in other.series]
    style.save(style.image(left, other), tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 10_000


def test_the_front_of_all_is_found():
    """Of three networks the one that is slower and worse than another is none of it."""
    frame = pd.DataFrame(
        {"method": ["TF-NAS", "TF-NAS", "AlphaNet"], "latency_ms": [1.0, 2.0, 3.0], "mflops": [3.0, 2.0, 1.0], "top1": [80, 70, 90.0]}
    )
    assert page.front_counts(frame).endswith("by latency TF-NAS (1), AlphaNet (1); by FLOPs AlphaNet (1).")


def test_targets_are_chosen_by_name():
    """In HardCoRe-NAS's order; an unknown name is an error that lists the known ones."""
    assert oneshot.named_targets(("c", "a"), [1.0, 2.0, 3.0]) == {"a": 1.0, "c": 3.0}
    assert oneshot.named_targets(None, [1.0, 2.0]) == {"a": 1.0, "b": 2.0}
    with pytest.raises(ParamsError, match=r"oneshot\.targets: 'f' is not among .*\['a', 'b'\]"):
        oneshot.named_targets(("a", "f"), [1.0, 2.0])


def test_the_curve_of_a_search_is_where_it_rises():
    """Scores 1, 1, 3, 2: rises at the first and the third, and the end."""
    curve = oneshot.curve(np.array([1.0, 1.0, 3.0, 2.0]))
    assert [(row["evaluations"], row["top1_held_out"]) for row in curve] == [(1, 1.0), (3, 3.0), (4, 3.0)]


def test_names_of_metrics_are_plain():
    """Letters, digits and underscores."""
    assert metric_name("HardCoRe-NAS") == "hardcore_nas" and metric_name("mobilenet_v3_small 0.25") == "mobilenet_v3_small_0_25"
