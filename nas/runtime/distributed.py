"""Several processes as one: section `launcher` starts torchrun, which starts them; a single process needs nothing of it.

All ranks draw the same architectures, take equal shares of a batch, and average their results; rank 0 writes.
Collectives run on NCCL for GPU tensors and on gloo for others.
"""

import io
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor

from nas.runtime import params, processes
from nas.runtime.checkpoint import STATE, Checkpoint

T = TypeVar("T")

MAX_WAIT = timedelta(minutes=30)  # of a rank for another, e.g. for rank 0 to write
ARCHS_PER_EXCHANGE = 16  # per rank, evaluated between two exchanges of results
TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"  # set by torchrun
LOOPBACK = "loopback"  # rendezvous backend of nas.runtime.torchrun: this machine only
HOST = "127.0.0.1"


class Launcher(params.Section):
    """Section `launcher`: on how many processes `pretrain`, `train` and `search` run."""

    processes: Annotated[int, Field(ge=1)]  # on each machine; one per GPU, or one without a GPU
    nodes: Annotated[int, Field(ge=1)]  # machines
    rendezvous: str | None  # host:port of the first machine; null on one machine
    restarts: Annotated[int, Field(ge=0)]  # of all processes after one died; each resumes from the last checkpoint

    @model_validator(mode="after")
    def _has_rendezvous(self) -> Self:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(f"nodes {self.nodes}: rendezvous is needed, host:port of the first machine")
        return self

    def command(self, module: str) -> list[str]:
        """Arguments of the interpreter that run a module under torchrun."""
        seconds = int(MAX_WAIT.total_seconds())  # machines may start at different times
        if self.nodes > 1:
            rendezvous = ("c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-conf", f"join_timeout={seconds},read_timeout={seconds}")
        else:
            rendezvous = (LOOPBACK, "--rdzv-endpoint", f"{HOST}:0", "--local-addr", HOST)
        return [
            *("-m", "nas.runtime.torchrun", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)),
            *("--rdzv-backend", *rendezvous, "--max-restarts", str(self.restarts), "-m", module),
        ]

    def environment(self) -> dict[str, str]:
        """Environment variables for torchrun and its processes; variables that are set already win."""
        variables = {
            "OMP_NUM_THREADS": "1",  # the processes set runtime.threads; without this variable torchrun warns
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else restarted processes get the addresses of dead ones
        }
        if self.nodes == 1 and os.path.isdir("/sys/class/net/lo"):
            variables |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # no other machine connects
        return variables | {key: os.environ[key] for key in variables if key in os.environ}


def launch(main: Callable[[], object], check: Callable[[], object]) -> None:
    """Call a stage's main on the processes of section `launcher`; for several, this process becomes torchrun.

    Args:
        check: raises for mistakes that can be found before, since torchrun restarts processes after any error.

    Raises:
        ParamsError: for a mistake in the section.
    """
    if TORCHRUN_VARIABLE in os.environ:
        processes.die_with_parent()  # the parent is torchrun
        with process_group():
            main()
        return
    cfg = params.read("launcher", Launcher)
    if cfg.processes * cfg.nodes == 1:
        main()
        return
    check()
    if "DVC_STAGE" in os.environ:
        processes.die_with_parent()  # stays in force over exec
    os.environ.update(cfg.environment())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *cfg.command(sys.modules["__main__"].__spec__.name)])


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started; all print the same, so only rank 0 prints."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = rendezvous_store(MAX_WAIT)
    options = {} if store is None else {"store": store, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group(backend, timeout=MAX_WAIT, **options)
    try:
        with nullcontext() if is_first() else redirect_stdout(None):
            yield
    finally:
        dist.destroy_process_group()


def serve_store(port: int, max_wait: timedelta) -> dist.TCPStore:
    """A store that listens on this machine only and does not wait for other processes.

    Args:
        port: 0 for any free one.
        max_wait: longest wait for a key.
    """
    listening = socket.create_server((HOST, port))
    port = listening.getsockname()[1]
    options = {"is_master": True, "multi_tenant": True, "wait_for_workers": False}
    return dist.TCPStore(HOST, port, timeout=max_wait, master_listen_fd=listening.detach(), **options)


def rendezvous_store(max_wait: timedelta) -> dist.TCPStore | None:
    """The store of processes started by the `loopback` backend; None if PyTorch has to create one.

    Rank 0 serves it, at the port that torchrun chose.
    """
    if os.environ["GROUP_WORLD_SIZE"] != "1" or os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        return None
    port = int(os.environ["MASTER_PORT"])
    if os.environ["RANK"] == "0":
        return serve_store(port, max_wait)
    return dist.TCPStore(HOST, port, is_master=False, timeout=max_wait, wait_for_workers=False)


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process has rank 0, which writes."""
    return rank() == 0


def images_per_process(batch: int, processes: int) -> int:
    """Images of a batch per process.

    Raises:
        ParamsError: if the batch cannot be divided evenly; names the key.
    """
    if batch % processes:
        raise params.ParamsError(f"{params.FILE}: recipe.batch {batch} cannot be divided among {processes} processes: choose a multiple")
    return batch // processes


def batch_share(batch: int) -> slice:
    """This rank's slice of a batch.

    Raises:
        ParamsError: if the batch cannot be divided evenly.
    """
    size = images_per_process(batch, world_size())
    return slice(rank() * size, (rank() + 1) * size)


def mean(values: Tensor) -> Tensor:
    """(n,) mean over all ranks, bit-identical on each."""
    if world_size() == 1:
        return values
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values.contiguous())
    return torch.stack(gathered).mean(0)  # in the same order on every rank


def average_gradients(module: torch.nn.Module) -> None:
    """Replace each gradient by its mean over all ranks, with one reduction."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def map_sharded(function: Callable[[Sequence[T]], Iterable[float]], values: Sequence[T]) -> Iterator[float]:
    """The function of all values, in order; each rank computes its share, and all ranks get all results.

    Args:
        function: one number for each of its values, in order.

    Raises:
        RuntimeError: if the ranks have different values.
    """
    if world_size() == 1:
        yield from function(values)
        return
    for start in range(0, len(values), ARCHS_PER_EXCHANGE * world_size()):
        block = list(values[start : start + ARCHS_PER_EXCHANGE * world_size()])
        results = torch.full((ARCHS_PER_EXCHANGE + 1,), torch.nan, dtype=torch.float64)
        results[ARCHS_PER_EXCHANGE] = crc32(repr(block).encode())
        own = block[rank() :: world_size()]
        results[: len(own)] = torch.tensor(list(function(own)), dtype=torch.float64)
        gathered = [torch.empty_like(results) for _ in range(world_size())]
        dist.all_gather(gathered, results)
        if len({float(r[ARCHS_PER_EXCHANGE]) for r in gathered}) > 1:
            raise RuntimeError("the processes do not evaluate the same architectures: do their versions or files differ?")
        yield from (float(gathered[i % world_size()][i // world_size()]) for i in range(len(block)))


class RankZeroCheckpoint:
    """A checkpoint for all ranks: rank 0 writes and reads, and broadcasts the state."""

    def __init__(self, own: Checkpoint | None) -> None:
        """With the checkpoint of rank 0; None on other ranks."""
        self._own = own

    @property
    def folder(self) -> Path:
        """The folder of rank 0, for files beside the state."""
        return self._own.folder

    def save(self, state: dict[str, Any], name: str = STATE) -> None:
        if self._own is not None:
            self._own.save(state, name)

    def load(self, name: str = STATE) -> dict[str, Any] | None:
        return broadcast(None if self._own is None else self._own.load(name))


def broadcast(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rank 0's tensors and plain values, on all ranks; the argument of other ranks is ignored."""
    if world_size() == 1:
        return state
    buffer = io.BytesIO()
    torch.save(state if is_first() else None, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, 0)
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if is_first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
