"""Time of the accuracy predictor: python -m benchmarks.predictor

512 fitted rows of the paper's space, 100 trees of depth 15 (AttentiveNAS, section 4.3), one thread.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
from sklearn.ensemble import RandomForestRegressor

import nas
from nas.search.predictor import Forest
from nas.spaces import encoding, mbconv


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    paper = mbconv.load(Path(nas.__file__).parent / "spaces" / "attentive_nas.yaml")
    rng = np.random.default_rng(0)
    rows, queries = encoding.random_genes(paper, 512, rng), encoding.random_genes(paper, 1_000_000, rng)
    top1 = 60 + ((rows - rows.mean(0)) / np.maximum(rows.std(0), 1)) @ rng.random(rows.shape[1]) + rng.normal(0, 0.3, len(rows))
    theirs = RandomForestRegressor(100, max_depth=15, random_state=0, n_jobs=1)
    fit_ms = median_ms(lambda: theirs.fit(rows, top1), 3)
    compile_ms = median_ms(lambda: Forest.compile(theirs), 5)
    ours = Forest.compile(theirs)
    off = np.abs(ours.predict(queries[:10_000]) - theirs.predict(queries[:10_000])).max()

    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}, {platform.machine()}")
    print(f"{len(ours.value):,} nodes, {len(ours.question_gene)} distinct questions, depth {int(ours.depth)}")
    print(f"fit {fit_ms:.0f} ms, compile {compile_ms:.0f} ms, largest difference to scikit-learn {off:.1e} points")
    for n in (1, 50, 1000):
        mine, sk = median_ms(lambda n=n: ours.predict(queries[:n]), 100), median_ms(lambda n=n: theirs.predict(queries[:n]), 10)
        print(f"{n:>9,} rows: {mine:8.3f} ms   scikit-learn {sk:8.1f} ms")
    mine, sk = median_ms(lambda: ours.predict(queries), 1), median_ms(lambda: theirs.predict(queries), 1)
    print(f"{len(queries):>9,} rows: {mine / 1e3:8.1f} s    scikit-learn {sk / 1e3:8.1f} s")


if __name__ == "__main__":
    main()
