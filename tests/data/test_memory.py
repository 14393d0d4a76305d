"""Memory stays constant over epochs of a folder of many files, in the process and in its workers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

FILES, CLASSES = 20_000, 50

# Memory of the process and its workers in MB, shared pages counted once, at the end of each epoch, when every page of the
# listing was read. It runs in a fresh process, since memory freed by other tests would hide a leak.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, psutil
from nas.data.dataset import ImageDataset
from nas.data.loader import Augmentation, EvaluationBatches, TrainingBatches
from nas.data.sources import FolderImages
from nas.data.splits import Parts

workers = int(sys.argv[2])
images = FolderImages.find(Path(sys.argv[1]))
parts = Parts(np.full(len(images), "train"))
data = ImageDataset("many", "Many", images, images.classes, (0.5,) * 3, (0.2,) * 3, 16, parts, False)
augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True, policy="none")
batches = TrainingBatches(data, np.arange(len(images)), 500, augmentation, 0, workers)
evaluation = EvaluationBatches(data, np.arange(0, len(images), 10), 500, workers, keep_mb=0)

def memory():
    me = psutil.Process()
    return sum(p.memory_full_info().pss for p in (me, *me.children(recursive=True))) / 1e6

for epoch in range(3):
    for source in (evaluation, batches.epoch(epoch)):
        for i, batch in enumerate(source):
            if i == batches.steps - 10 * max(workers, 1):  # while the workers still run
                used = memory()
    print(len(images), used)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """20,000 files in 50 class folders."""
    root = tmp_path_factory.mktemp("many")
    Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 20, 3), dtype=np.uint8)).save(root / "one.png")
    content = (root / "one.png").read_bytes()
    (root / "one.png").unlink()
    for c in range(CLASSES):
        (root / f"class {c}").mkdir()
        for i in range(FILES // CLASSES):
            (root / f"class {c}" / f"image number {i:06d}.png").write_bytes(content)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_constant(many, workers):
    """The third epoch ends at most 5 % above the first, with and without workers."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(many), str(workers)], capture_output=True, text=True, check=True)
    epochs = [line.split() for line in done.stdout.splitlines()]
    assert [int(n) for n, _ in epochs] == [FILES] * 3
    memory = [float(used) for _, used in epochs]
    assert memory[2] < 1.05 * memory[0], memory


# A forked worker reads every path once; prints the growth of its own memory in bytes.
FORKED = """
import os, psutil, sys
from nas.data.listing import Paths

paths = Paths((f"/data/train/n{c:08d}", [f"n{c:08d}_{i:05d}.JPEG" for i in range(1000)]) for c in range(300))
read, write = os.pipe()
if os.fork() == 0:
    before = psutil.Process().memory_full_info().uss
    assert sum(len(path.name) for path in paths) == 20 * len(paths)
    os.write(write, str(psutil.Process().memory_full_info().uss - before).encode())
    os._exit(0)
os.wait()
print(os.read(read, 99).decode())
"""


def test_a_worker_shares_the_listing():
    """Reading 300,000 paths takes less than 20 MB; as pathlib paths they take over 100."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20e6
