"""The project's folder, git, the processor, and the processes around a stage."""

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def project_root() -> Path:
    """Root of the project that has the checkpoints and mlflow.db.

    `dvc exp run --temp` and the queue run stages in a copy below .dvc/tmp/exps; DVC sets DVC_ROOT for
    every command to the original project.

    Raises:
        RuntimeError: outside a DVC project.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    return workspace()


def workspace() -> Path:
    """The folder of the dvc.yaml and params.yaml in use: the project, or the copy of an experiment.

    Raises:
        RuntimeError: outside a DVC project.
    """
    current = Path.cwd()
    for folder in (current, *current.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise RuntimeError(f"{current} is not inside a DVC project (no .dvc folder here or above); run from the project's root")


def require_git(folder: Path | None = None) -> None:
    """Check that the project is a git repository, which DVC needs.

    Raises:
        RuntimeError: if it is not; says what to do.
    """
    folder = folder or workspace()
    if git("rev-parse", "--git-dir", folder=folder) is None:
        raise RuntimeError(
            f"{folder} is not a git repository, and DVC needs one: run `git init && git add -A && git commit -m start` there"
        )


def process_token(pid: int | None = None) -> str:
    """`host:pid:start`, a permanent name of one process; a pid alone is reused."""
    import psutil

    process = psutil.Process(pid)
    return f"{socket.gethostname()}:{process.pid}:{_start(process)}"


def _start(process: "psutil.Process") -> str:
    """Start time of a process, independent of later changes of the clock.

    psutil adds the boot time, which moves with the clock; Linux counts ticks from the boot, which has an id.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.is_file():
        return f"{process.create_time():.2f}"
    after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return f"{boot.read_text()[:8]}-{after_name[19]}"  # starttime, in ticks: field 22 of proc(5)


def alive(token: str) -> bool:
    """Whether the process of a `process_token` still runs; assumed so on another host."""
    import psutil

    host, pid, start = token.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        return _start(process) == start and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return False


def dvc_process() -> str | None:
    """Token of the DVC process that runs this stage; None if a stage is run by hand.

    DVC sets DVC_STAGE for its commands but not for itself, so DVC is the nearest ancestor without it;
    shells and launchers such as torchrun in between inherit the variable.
    """
    import psutil

    if "DVC_STAGE" not in os.environ:
        return None
    for process in psutil.Process().parents():
        try:
            if "DVC_STAGE" not in process.environ():
                return process_token(process.pid)
        except psutil.Error:
            return None
    return None


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends (Linux; no effect elsewhere).

    Otherwise the stage of a killed `dvc` would keep running. The setting survives exec, not fork.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or (parent == 1 and not _is_python(parent)):  # the parent ended before, and init replaced it
        os.kill(os.getpid(), signal.SIGTERM)


def _is_python(pid: int) -> bool:
    """Whether the process may be dvc, as process 1 is in a container started for it."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return any(word in part for part in command[:2] for word in (b"python", b"dvc"))


def git(*args: str, folder: Path | None = None) -> str | None:
    """The output of git, stripped; None if git fails or is missing."""
    try:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The processor's name as the system gives it, e.g. "AMD EPYC" or "Raspberry Pi 4 Model B Rev 1.4"."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name") or facts.get("Model") or platform.processor() or platform.machine()
