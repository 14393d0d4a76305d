"""HardCoRe-NAS end to end on a small space: one model, a network per target."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.cost.flops import row_macs
from nas.cost.latency import Entry
from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable, all_blocks
from nas.differentiable.hardcore_nas import frank_wolfe, training
from nas.differentiable.hardcore_nas.frank_wolfe import SampledGradients
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract, sort_channels
from nas.differentiable.hardcore_nas.relaxed import max_entropy_start
from nas.evaluation.evaluate import calibrate
from nas.runtime import seeding
from nas.spaces import FOLDER, hardcore_nas
from nas.training.recipe import Runtime

GLYPHS = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
SMALL = hardcore_nas.Space.model_validate(
    {**GLYPHS.model_dump(), "name": "small", "resolution": 12, "stages": GLYPHS.model_dump()["stages"][:2]}
)
RUNTIME = Runtime(device="cpu", threads=1, evaluators=1, workers=0, precision="fp32", channels_last=False)
CPU = torch.device("cpu")


class Batches:
    """Three batches of 16 images whose class is the brightest colour."""

    steps = 3

    def __init__(self) -> None:
        labels = torch.arange(48) % 3
        noise = torch.randn(48, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        self.parts = [
            SimpleNamespace(images=x, labels=y)
            for x, y in zip((noise + 2 * F.one_hot(labels, 3)[:, :, None, None]).split(16), labels.split(16))
        ]

    def epoch(self, number: int) -> list[SimpleNamespace]:
        return self.parts


def config(epochs: int) -> training.TrainingConfig:
    return training.TrainingConfig(
        epochs=epochs, learning_rate=0.05, warmup_epochs=1, momentum=0.9, weight_decay=1e-5, label_smoothing=0.0, clip_value=1.0
    )


def fit(model: torch.nn.Module, loss: training.Loss, epochs: int) -> None:
    training.fit(model, loss, Batches(), config(epochs), "test", RUNTIME, CPU, None, lambda state, value: None)


@pytest.mark.slow
def test_one_model_gives_a_network_for_every_target():
    """Train, sort, train jointly, search for three targets: every step and network is within its target, looser targets give
    slower networks, and after fine-tuning top-1 is at least twice chance level."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneShot(SMALL, 3)
    fit(model, training.largest_loss(model, 0.0), 4)
    batches = [(part.images, part.labels) for part in Batches().parts]
    sort_channels(model, training.importance(model, training.largest_loss(model, 0.0), batches))
    teacher = copy.deepcopy(model).eval()
    fit(model, training.multi_path_loss(model, teacher, 0.0, seed=0), 4)
    blocks = {block: Entry(row_macs(block.row, block.side) / 1e5, 0.0) for block in all_blocks(SMALL).values()}
    latency = HardcoreNasLatencyTable(SMALL, 3, blocks, 0.5).expected
    low, high = latency.range_ms
    gradients = SampledGradients(model, lambda step: batches[step % 3], lambda step: seeding.generator(0, "gradient", step))
    latencies = []
    for share in (0.0, 0.2, 0.5):
        target = low + share * (high - low)
        start = frank_wolfe.begin(max_entropy_start(latency, target, 0.25))
        for state in frank_wolfe.search(
            start, latency, target, frank_wolfe.FrankWolfeConfig(0.05, 0.9), 40, gradients, lambda step: seeding.generator(0, "block", step)
        ):
            assert latency(state.relaxed) <= target * (1 + 1e-9)
        arch = frank_wolfe.project(state.relaxed, latency, target)
        assert latency.of(arch) <= target * (1 + 1e-9)
        latencies.append(latency.of(arch))
        network, largest = extract(model, arch), extract(teacher, SMALL.largest()).eval()
        fit(network, training.tuning_loss(network, largest, 0.0), 2)
        calibrate(network, (images for images, _ in batches))
        top1 = np.mean([(network(images).argmax(1) == labels).float().mean().item() for images, labels in batches])
        assert top1 >= 2 / 3
    assert latencies[0] == pytest.approx(low)
    assert latencies == sorted(set(latencies))
