"""Effects of the torch backend on the process that it measures in."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from nas.latency.backends.config import Torch
Torch(runtime="torch", device="cpu", threads=1, channels_last=True).start()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def turn():
    for megabytes in (40, 3, 90, 12):
        torch.full((megabytes * 2**18,), 1.0)
for _ in range(4):  # until the heap has grown as far as it does
    turn()
before = faults(); turn(); turn()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be set to keep memory")
def test_freed_memory_is_kept():
    """Writing 290 MiB twice causes 74,000 page faults if the memory is returned in between, and fewer than 100 here."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
