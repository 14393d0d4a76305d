"""Latency table of a space: `python -m benchmarks.latency [space] [torch|onnxruntime] [seconds]`; one thread, one image a call.

How well the table tells networks that nothing was fitted on; see `nas.latency.validation.figures`. The default is AttentiveNAS's own
space, for which the paper's 1,000 classes are taken, in four minutes.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from nas.cost import flops
from nas.latency import validation as judge
from nas.latency.profiler import Settings, judged_on, survey, validation
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.spaces import mbconv

BACKENDS = {
    "torch": {"runtime": "torch", "device": "cpu", "threads": 1, "channels_last": True},
    "onnxruntime": {"runtime": "onnxruntime", "threads": 1},
}
CLASSES = 1000


def main(name: str = "attentive_nas", backend: str = "torch", seconds: str = "240") -> None:
    section = yaml.safe_load(Path(params.FILE).read_text())["latency"] | {
        "backend": BACKENDS[backend],
        "batch": 1,
        "limit_s": float(seconds),
    }
    p, searched = params.check({"latency": section}, "latency", Settings), mbconv.load(f"nas/spaces/{name}.yaml")
    with TemporaryDirectory() as folder, Checkpoint(Path(folder), "latency", "0" * 16) as checkpoint:
        found = survey(p, searched, CLASSES, 0, p.backend.start(), checkpoint)
    judged = judged_on(validation(found, flops.table(searched, CLASSES)))
    measured = judged[["predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops"]].to_numpy().T
    setting = found.table.setting
    took = f"{setting['repetitions']} rounds over the pieces, {setting['seconds']} s"
    print(f"{name}, {backend}, {setting['device']}: {took}, fitted {setting['fitted']}")
    for key, value in judge.figures(*measured).items():
        print(f"  {key:24} {value:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
