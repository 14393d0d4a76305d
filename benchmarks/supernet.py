"""Speed of a sandwich step and of extraction on the paper's space: `python -m benchmarks.supernet [threads]`.

Prints seconds per step at the paper's resolutions and at 224 px, the ratio of a supernet step to steps of the
same four extracted networks (interleaved, medians), and milliseconds to extract a sub-network.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from nas.models.extract import Network, extract
from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.runtime.processes import processor
from nas.spaces import mbconv
from nas.spaces.mbconv import Arch
from nas.training.losses import KL, kl_divergence, label_loss
from nas.training.recipe import Runtime
from nas.training.sandwich import sandwich_step

BATCH = 8
RUNTIME = Runtime(device="cpu", threads=2, evaluators=1, workers=0, precision="fp32", channels_last=True)


def main(threads: int = 2) -> None:
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads, {processor()}")
    code = "import time; t = time.perf_counter(); import nas, nas.spaces.mbconv; print(time.perf_counter() - t)"
    seconds = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    print(f"import nas and nas.spaces.mbconv: {statistics.median(seconds):.2f} s")
    paper = mbconv.load("nas/spaces/attentive_nas.yaml")
    supernet = Supernet(paper, 1000)
    rng = np.random.default_rng(0)

    times = []
    for _ in range(90):
        arch = paper.random(rng)
        start = time.perf_counter()
        extract(supernet, arch)
        times.append(time.perf_counter() - start)
    print(f"extract a sub-network: {1000 * statistics.median(times[30:]):.1f} ms (median of 60, after 30)")

    images = torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,))
    for title, side in (("the paper's resolutions", None), ("224 px", 224)):
        net = Supernet(replace(paper, resolutions=(side,)), 1000) if side else supernet
        supernet_seconds, plain_seconds = [], []
        for turn in range(6):
            archs = [net.space.largest(), net.space.random(rng), net.space.random(rng), net.space.smallest()]
            runs = [
                (supernet_seconds, partial(_step, net, archs, images, labels)),
                (plain_seconds, partial(_plain_step, _networks(net, archs), images, labels)),
            ]
            for times, run in runs[:: 1 if turn % 2 else -1]:  # the second one finds the memory warm
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            net.zero_grad(set_to_none=True)
        ratio = statistics.median(a / b for a, b in zip(supernet_seconds, plain_seconds))
        print(f"sandwich step, {title}, batch {BATCH}: {statistics.median(supernet_seconds):.2f} s; {ratio:.3f} x plain networks")


def _step(net: Supernet, archs: list[Arch], images: torch.Tensor, labels: torch.Tensor) -> None:
    regularise = Regularisation(0.2, 0.2, torch.arange(BATCH))
    sandwich_step(net, images, labels, lambda _: archs[1:-1], regularise, 0.1, KL(), RUNTIME)


def _networks(net: Supernet, archs: list[Arch]) -> list[Network]:
    return [extract(net, arch).to(memory_format=torch.channels_last) for arch in archs]


def _plain_step(networks: list[Network], images: torch.Tensor, labels: torch.Tensor) -> None:
    teacher = networks[0](images)
    label_loss(teacher, labels, 0.1).backward()
    for network in networks[1:]:
        kl_divergence(network(images), teacher).backward()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
