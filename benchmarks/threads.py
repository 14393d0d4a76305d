"""Threads and waiting policy for the default space: `python -m benchmarks.threads`.

Prints the median milliseconds of a sandwich step with 1 and 2 threads per operator, with OMP_WAIT_POLICY
PASSIVE and ACTIVE, in both memory formats. The variants take turns, so other load on the machine affects
all of them alike.
"""

import os
import statistics
import subprocess
import sys
import time

TURNS, STEPS, BATCH = 3, 12, 64


def measure(threads: int) -> None:
    """One turn, in a separate process: prints the seconds of every step, channels_last then contiguous, on two lines."""
    import numpy as np
    import torch

    from nas.models.layers import Regularisation
    from nas.models.supernet import Supernet
    from nas.spaces import mbconv
    from nas.training.losses import KL
    from nas.training.recipe import Runtime
    from nas.training.sandwich import sandwich_step

    torch.set_num_threads(threads)
    space, rng = mbconv.load("nas/spaces/glyphs.yaml"), np.random.default_rng(0)
    supernet, labels = Supernet(space, 34), torch.randint(34, (BATCH,))
    archs = [[space.random(rng) for _ in range(2)] for _ in range(STEPS)]
    for channels_last in (True, False):
        runtime = Runtime(device="cpu", threads=threads, evaluators=1, workers=0, precision="fp32", channels_last=channels_last)
        images = torch.randn(BATCH, 3, 24, 24).contiguous(memory_format=runtime.memory_format)
        seconds = []
        for sampled in archs:
            start = time.perf_counter()
            regularise = Regularisation(0.2, 0.2, torch.arange(BATCH))
            sandwich_step(supernet, images, labels, lambda _, a=sampled: a, regularise, 0.1, KL(), runtime)
            seconds.append(time.perf_counter() - start)
        print(*seconds[2:])  # the first ones warm up caches


def main() -> None:
    times: dict[tuple[int, str, str], list[float]] = {}
    for _ in range(TURNS):
        for threads in (1, 2):
            for policy in ("PASSIVE", "ACTIVE"):
                command = [sys.executable, "-c", f"from benchmarks.threads import measure; measure({threads})"]
                done = subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": policy}, capture_output=True, text=True, check=True)
                for layout, line in zip(("channels_last", "contiguous"), done.stdout.splitlines()):
                    times.setdefault((threads, policy, layout), []).extend(map(float, line.split()))
    for (threads, policy, layout), seconds in times.items():
        print(f"{threads} threads, {policy:7}, {layout:13}: {1000 * statistics.median(seconds):6.1f} ms per step (batch {BATCH})")


if __name__ == "__main__":
    main()
