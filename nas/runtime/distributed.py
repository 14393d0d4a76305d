"""Many processes as one: section `launcher` starts torchrun, which starts them; on one process nothing of it shows.

All ranks draw the same architectures, take equal shares of a batch, and average what they found; the first one alone
writes. Collectives run on NCCL for a GPU's tensors and on gloo for others.
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

PATIENCE = timedelta(minutes=30)  # that a rank waits for another, e.g. for the first to write
SHARE = 16  # architectures that each rank evaluates between two exchanges
TORCHRUN = "TORCHELASTIC_RUN_ID"  # set by it
LOOPBACK = "loopback"  # rendezvous of nas.runtime.torchrun: this machine alone
HOST = "127.0.0.1"


class Launcher(params.Section):
    """Section `launcher`: on how many processes `pretrain`, `train` and `search` run."""

    processes: Annotated[int, Field(ge=1)]  # on each machine; one a GPU, or one where there is none
    nodes: Annotated[int, Field(ge=1)]  # machines
    rendezvous: str | None  # host:port of the first machine; null on one machine
    restarts: Annotated[int, Field(ge=0)]  # of all processes after one died; each goes on from the last checkpoint

    @model_validator(mode="after")
    def _meets(self) -> Self:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(f"nodes {self.nodes}: rendezvous is needed, host:port of the first of them")
        return self

    def command(self, module: str) -> list[str]:
        """torchrun for a module, without the interpreter in front."""
        seconds = int(PATIENCE.total_seconds())  # machines need not start at once
        if self.nodes > 1:
            meet = ("c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-conf", f"join_timeout={seconds},read_timeout={seconds}")
        else:
            meet = (LOOPBACK, "--rdzv-endpoint", f"{HOST}:0", "--local-addr", HOST)
        return [
            *("-m", "nas.runtime.torchrun", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)),
            *("--rdzv-backend", *meet, "--max-restarts", str(self.restarts), "-m", module),
        ]

    def environment(self) -> dict[str, str]:
        """What torchrun and the processes need in theirs; what is set already stays."""
        found = {
            "OMP_NUM_THREADS": "1",  # runtime.threads is set in the processes; without, torchrun warns
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else processes that are started again meet the addresses of dead ones
        }
        if self.nodes == 1 and os.path.isdir("/sys/class/net/lo"):
            found |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # no other machine has to reach these
        return found | {key: os.environ[key] for key in found if key in os.environ}


def launch(main: Callable[[], object], check: Callable[[], object]) -> None:
    """Call a stage's main, on as many processes as section `launcher` says: torchrun takes this process's place and starts them.

    Args:
        check: raises for what can be told before: torchrun starts processes again whatever they ended of.

    Raises:
        ParamsError: for a mistake in the section.
    """
    if TORCHRUN in os.environ:
        processes.die_with_parent()  # torchrun, were it killed
        with group():
            main()
        return
    p = params.read("launcher", Launcher)
    if p.processes * p.nodes == 1:
        main()
        return
    check()
    if "DVC_STAGE" in os.environ:
        processes.die_with_parent()  # stays in force over exec
    os.environ.update(p.environment())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *p.command(sys.modules["__main__"].__spec__.name)])


@contextmanager
def group() -> Iterator[None]:
    """The processes that torchrun started, as one group; what they print is the same, so only the first one's is shown."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    place = meeting_place(PATIENCE)
    who = {} if place is None else {"store": place, "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group(backend, timeout=PATIENCE, **who)
    try:
        with nullcontext() if first() else redirect_stdout(None):
            yield
    finally:
        dist.destroy_process_group()


def serve(port: int, patience: timedelta) -> dist.TCPStore:
    """A store that only this machine reaches; it waits for nobody.

    Args:
        port: 0 for any that is free.
        patience: longest wait for a key.
    """
    listening = socket.create_server((HOST, port))
    port = listening.getsockname()[1]
    options = {"is_master": True, "multi_tenant": True, "wait_for_workers": False}
    return dist.TCPStore(HOST, port, timeout=patience, master_listen_fd=listening.detach(), **options)


def meeting_place(patience: timedelta) -> dist.TCPStore | None:
    """The store by which a process that `loopback` started finds the others; None where PyTorch has to make one.

    The first process serves it, at the port that torchrun chose.
    """
    if os.environ["GROUP_WORLD_SIZE"] != "1" or os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        return None
    port = int(os.environ["MASTER_PORT"])
    if os.environ["RANK"] == "0":
        return serve(port, patience)
    return dist.TCPStore(HOST, port, is_master=False, timeout=patience, wait_for_workers=False)


def ranks() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def part(batch: int, processes: int) -> int:
    """Images of a batch that each of the processes takes.

    Raises:
        ParamsError: if it cannot be divided evenly; names the key.
    """
    if batch % processes:
        raise params.ParamsError(f"{params.FILE}: recipe.batch {batch} cannot be divided among {processes} processes: choose a multiple")
    return batch // processes


def share(batch: int) -> slice:
    """This rank's equal part of a batch's places.

    Raises:
        ParamsError: if it cannot be divided evenly.
    """
    mine = part(batch, ranks())
    return slice(rank() * mine, (rank() + 1) * mine)


def mean(values: Tensor) -> Tensor:
    """(n,) the mean over all ranks, the same bits on each."""
    if ranks() == 1:
        return values
    found = [torch.empty_like(values) for _ in range(ranks())]
    dist.all_gather(found, values.contiguous())
    return torch.stack(found).mean(0)  # in the same order on every rank


def average_gradients(module: torch.nn.Module) -> None:
    """Put the mean over all ranks in place of each gradient: one reduction for all of them."""
    if ranks() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= ranks()
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def each(function: Callable[[Sequence[T]], Iterable[float]], items: Sequence[T]) -> Iterator[float]:
    """function of the items, in order; each rank computes its share of them, and all get all.

    Args:
        function: gives a number for each item it gets, in order.

    Raises:
        RuntimeError: if the ranks do not have the same items, which would mix up results.
    """
    if ranks() == 1:
        yield from function(items)
        return
    for start in range(0, len(items), SHARE * ranks()):
        block = list(items[start : start + SHARE * ranks()])
        mine = torch.full((SHARE + 1,), torch.nan, dtype=torch.float64)
        mine[SHARE] = crc32(repr(block).encode())
        own = block[rank() :: ranks()]
        mine[: len(own)] = torch.tensor(list(function(own)), dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(ranks())]
        dist.all_gather(found, mine)
        if len({float(f[SHARE]) for f in found}) > 1:
            raise RuntimeError("the processes do not evaluate the same architectures: are versions or files of theirs not the same?")
        yield from (float(found[i % ranks()][i // ranks()]) for i in range(len(block)))


class FirstSaves:
    """A checkpoint for all ranks: the first one writes and reads, and all get what it read."""

    def __init__(self, own: Checkpoint | None) -> None:
        """The first rank's own; None on others."""
        self._own = own

    @property
    def folder(self) -> Path:
        """The first rank's, for files beside the state."""
        return self._own.folder

    def save(self, state: dict[str, Any], name: str = STATE) -> None:
        if self._own is not None:
            self._own.save(state, name)

    def load(self, name: str = STATE) -> dict[str, Any] | None:
        return from_first(None if self._own is None else self._own.load(name))


def from_first(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first rank's tensors and plain values, on every rank; others may give anything."""
    if ranks() == 1:
        return state
    buffer = io.BytesIO()
    torch.save(state if first() else None, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, 0)
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
