"""Latency table of a space: `python -m benchmarks.latency [space] [torch|onnxruntime] [seconds]`; one thread, one image per call.

Prints how well the table predicts its validation networks (`nas.latency.validation.metrics`). The default is AttentiveNAS's
space with the paper's 1,000 classes, in four minutes.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from nas.latency.mbconv import ProfiledMBConv
from nas.latency.profiler import LatencyConfig, profile
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
    cfg, space = params.check({"latency": section}, "latency", LatencyConfig), ProfiledMBConv(mbconv.load(f"nas/spaces/{name}.yaml"))
    with TemporaryDirectory() as folder, Checkpoint(Path(folder), "latency", "0" * 16) as checkpoint:
        profiled = profile(cfg, space, CLASSES, 0, cfg.backend.start(), checkpoint)
    setting = profiled.table.setting
    effort = f"{setting['repetitions']} rounds over the blocks, {setting['seconds']} s"
    print(f"{name}, {backend}, {setting['device']}: {effort}, fitted {setting['fitted']}")
    for key, value in profiled.metrics().items():
        print(f"  {key:24} {value:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
