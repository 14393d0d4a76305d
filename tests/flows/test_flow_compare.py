"""The compare flow on a small DVC project with a matrix; a log shows when each stage began and ended."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.concurrency.sync import concurrency

from flows import compare as flow
from flows import stages
from tests.flows.test_flow_pipeline import dvc, git, under_git_and_dvc

FILE = "pipelines/cmp/dvc.yaml"
CODE = """
import json, os, pathlib, sys, time
name, value, *sources = sys.argv[1:]
log = pathlib.Path(os.environ["DVC_ROOT"], "calls.log")
def note(what):
    with log.open("a") as file:
        print(what, name, time.monotonic(), os.environ.get("NAS_PIPELINE"), file=file)
note("begin")
if pathlib.Path(os.environ["DVC_ROOT"], "bad-" + name).exists():
    sys.exit(name + " is broken")
total = int(value) + sum(int(pathlib.Path(source).read_text()) for source in sources)
meet, seconds = os.environ.get("MEET", "none"), float(os.environ.get("MEET_S", 60))
deadline = time.monotonic() + seconds
while name.startswith(meet) and log.read_text().count("begin " + meet) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path(f"out/{name}.txt").write_text(str(total))
pathlib.Path(f"out/{name}.json").write_text(json.dumps({"total": total}))
note("end")
"""
ROOT_STAGES = """
stages:
  split:
    cmd: {python} work.py split 1 start.txt
    deps: [work.py, start.txt]
    outs: [out/split.txt]
    metrics: [out/split.json: {{cache: false}}]
  other:
    cmd: {python} work.py other 1 start.txt
    deps: [work.py, start.txt]
    outs: [out/other.txt]
    metrics: [out/other.json: {{cache: false}}]
"""
# `report` runs last, but is neither last in alphabetical nor in file order.
MATRIX_STAGES = """
vars: [params.yaml]
stages:
  report:
    wdir: ../..
    cmd: {python} work.py report 0 out/train-a-3-0.txt out/train-a-3-1.txt out/train-b-50-0.txt out/train-b-50-1.txt
    deps: [work.py, out/train-a-3-0.txt, out/train-a-3-1.txt, out/train-b-50-0.txt, out/train-b-50-1.txt]
    outs: [out/report.txt]
    metrics: [out/report.json: {{cache: false}}]
  train:
    matrix:
      strategy: [a-3, b-50]
      seed: [0, 1]
    wdir: ../..
    cmd: {python} work.py train-${{item.strategy}}-${{item.seed}} ${{train.add}} out/early-${{item.seed}}.txt
    deps: [work.py, "out/early-${{item.seed}}.txt"]
    params: [pipelines/cmp/params.yaml: [train]]
    outs: ["out/train-${{item.strategy}}-${{item.seed}}.txt"]
    metrics: ["out/train-${{item.strategy}}-${{item.seed}}.json": {{cache: false}}]
  early:
    matrix:
      seed: [0, 1]
    wdir: ../..
    cmd: {python} work.py early-${{item.seed}} 10 out/split.txt
    deps: [work.py, out/split.txt]
    outs: ["out/early-${{item.seed}}.txt"]
    metrics: ["out/early-${{item.seed}}.json": {{cache: false}}]
"""
NEEDS = {
    "split": set(),
    "early-0": {"split"},
    "early-1": {"split"},
    **{f"train-{strategy}-{seed}": {f"early-{seed}"} for strategy in ("a-3", "b-50") for seed in (0, 1)},
    "report": {f"train-{strategy}-{seed}" for strategy in ("a-3", "b-50") for seed in (0, 1)},
}


@pytest.fixture(scope="session")
def matrix(tmp_path_factory) -> Path:
    """split <- early@SEED <- train@STRATEGY-SEED <- report over two dvc.yaml files, and `other`, which nothing needs."""
    folder = tmp_path_factory.mktemp("matrix") / "project"
    (folder / "pipelines/cmp").mkdir(parents=True)
    (folder / "work.py").write_text(CODE)
    (folder / "start.txt").write_text("1")
    (folder / "dvc.yaml").write_text(ROOT_STAGES.format(python=sys.executable))
    (folder / FILE).write_text(MATRIX_STAGES.format(python=sys.executable))
    (folder / "pipelines/cmp/params.yaml").write_text("train: {add: 100}\n")
    (folder / ".gitignore").write_text("calls.log\nout/*\n!out/*.json\npids/\nbad-*\n__pycache__/\n")
    return under_git_and_dvc(folder)


@pytest.fixture
def project(matrix, tmp_path, monkeypatch, plain_environment) -> Path:
    """A copy of the matrix project as the current folder."""
    folder = shutil.copytree(matrix, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def events() -> list[tuple[str, str]]:
    """("begin" or "end", stage) of the stages that ran, in order."""
    log = Path("calls.log")
    return [tuple(line.split()[:2]) for line in log.read_text().splitlines()] if log.exists() else []


def meet(monkeypatch, stage: str, seconds: float) -> None:
    """Make stages of a matrix wait until two of them have begun, so that stages that may run at once do."""
    monkeypatch.setenv("MEET", stage)
    monkeypatch.setenv("MEET_S", str(seconds))


def ran() -> list[str]:
    """Stages in the order of their ends; clears the log."""
    ended = [name for what, name in events() if what == "end"]
    Path("calls.log").unlink(missing_ok=True)
    return ended


def most_at_once(events: Iterable[tuple[str, str]]) -> int:
    running, most = 0, 0
    for what, _ in events:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    return most


def in_order(events: list[tuple[str, str]]) -> bool:
    """Whether every stage began after the ends of its dependencies."""
    return all(("end", need) in events[:i] for i, (what, name) in enumerate(events) if what == "begin" for need in NEEDS[name])


def name(address: str) -> str:
    """pipelines/cmp/dvc.yaml:train@a-3-0 -> train-a-3-0."""
    return address.removeprefix(f"{FILE}:").replace("@", "-")


def table() -> dict[str, dict]:
    """The rows of the last flow run's table."""
    from prefect.artifacts import Artifact

    return {name(row["stage"]): row for row in json.loads(Artifact.get("compare").data)}


def results() -> dict[str, str]:
    return {stage: row["result"] for stage, row in table().items()}


def test_a_matrix_is_planned_with_its_edges(project):
    """Stages of two files come after their dependencies; stages that are not needed are left out."""
    planned = stages.plan(stages.addresses([], FILE))

    assert {name(s.address): {name(need) for need in s.needs} for s in planned} == NEEDS
    before = [{name(other.address) for other in planned[:i]} for i in range(len(planned))]
    assert all(NEEDS[name(s.address)] <= earlier for s, earlier in zip(planned, before))


def test_a_target_is_a_stage_or_a_whole_matrix(project):
    """A bare name is a target of the study, a name with a colon a target of any dvc.yaml."""
    assert [name(s.address) for s in stages.plan(stages.addresses(["train@b-50-1"], FILE))] == ["split", "early-1", "train-b-50-1"]
    assert [name(s.address) for s in stages.plan(stages.addresses(["early"], FILE))] == ["split", "early-0", "early-1"]
    assert [name(s.address) for s in stages.plan(stages.addresses(["dvc.yaml:other"], FILE))] == ["other"]
    with pytest.raises(ValueError, match=r"trian.*train@a-3-0"):
        stages.plan(stages.addresses(["trian"], FILE))


def test_flow_and_dvc_agree_two_at_a_time(server, project, monkeypatch):
    """Stages run in topological order, at most two at once; then `dvc repro` has nothing to do."""
    meet(monkeypatch, "early", seconds=60)
    flow.compare(at_once=2, pipeline=FILE)

    log = events()
    assert in_order(log) and most_at_once(log) == 2
    assert sorted(ran()) == sorted(NEEDS) and set(results().values()) == {"ran"} and results().keys() == NEEDS.keys()
    assert table()["train-a-3-0"]["metrics"] == "total 112" and table()["report"]["metrics"] == "total 448"
    entries = yaml.safe_load(Path("pipelines/cmp/dvc.lock").read_text())["stages"].keys()
    assert entries | {"split"} == {stage.address.removeprefix(f"{FILE}:") for stage in stages.plan([FILE])}

    dvc("repro", FILE)
    assert ran() == []


def test_one_at_a_time_by_default(server, project, monkeypatch):
    """Stages that dvc has run are cached; the rest runs one by one, with the flow run's id in the environment."""
    meet(monkeypatch, "train", seconds=2)
    dvc("repro", f"{FILE}:early@0")
    assert ran() == ["split", "early-0"]

    flow.compare(pipeline=FILE)

    log = events()
    assert most_at_once(log) == 1 and sorted(n for what, n in log if what == "end") == sorted(NEEDS.keys() - {"split", "early-0"})
    assert len({line.split()[3] for line in Path("calls.log").read_text().splitlines()} - {"None"}) == 1
    assert {stage for stage, result in results().items() if result == "cached"} == {"split", "early-0"}


def test_a_failure_stops_only_dependent_stages(server, project):
    """The flow fails and names the stage; all others complete, and the next run does what is missing."""
    Path("bad-early-0").touch()

    with pytest.raises(stages.StageFailed, match=r"(?s)1 of 8 stages failed, 3 that.*early@0: .*early-0 is broken"):
        flow.compare(at_once=2, pipeline=FILE)
    assert set(ran()) == {"split", "early-1", "train-a-3-1", "train-b-50-1"}
    expected = dict.fromkeys(NEEDS, "ran") | {"early-0": "failed", "train-a-3-0": "not run", "train-b-50-0": "not run", "report": "not run"}
    assert results() == expected

    Path("bad-early-0").unlink()
    flow.compare(at_once=2, pipeline=FILE)
    assert set(ran()) == {"early-0", "train-a-3-0", "train-b-50-0", "report"}
    assert {stage for stage, result in results().items() if result == "cached"} == {"split", "early-1", "train-a-3-1", "train-b-50-1"}


def test_the_limit_of_all_workers_applies(server, project, monkeypatch):
    """With a Prefect limit `trainings` of 1, stages run one at a time whatever `at_once` is; afterwards its slot is free again."""
    from prefect.client.orchestration import get_client

    meet(monkeypatch, "early", seconds=4)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(stages.TRAININGS, 1)
        try:
            flow.compare(targets=["early"], at_once=3, pipeline=FILE)
            assert client.read_global_concurrency_limit_by_name(stages.TRAININGS).active_slots == 0
        finally:
            client.delete_global_concurrency_limit_by_name(stages.TRAININGS)

    assert most_at_once(events()) == 1 and set(ran()) == {"split", "early-0", "early-1"}


@pytest.mark.filterwarnings("ignore:Logger")  # a task without a flow
def test_waiting_for_a_slot_ends_with_the_run(server, project):
    """A run that is cancelled while all slots are held stops waiting and starts no stage."""
    from prefect.client.orchestration import get_client

    options = stages.RunOptions(stages.Commands(), force=False, shared=False, limits=frozenset({stages.TRAININGS}))
    (split,) = stages.plan(["split"])
    result = stages.StageResult("split")
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(stages.TRAININGS, 1)
        try:
            with concurrency(stages.TRAININGS):
                options.commands.end()
                with pytest.raises(stages.StageFailed, match="no slot of the limit"):
                    stages.run_stage(split, result, options)
        finally:
            client.delete_global_concurrency_limit_by_name(stages.TRAININGS)

    assert result.result == "not run" and ran() == []


def test_less_than_one_at_a_time_is_refused(project):
    """`--at-once 0` is refused before anything starts."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(flow.app, ["--at-once", "0"])

    assert result.exit_code == 2 and "at-once" in result.output


@pytest.mark.slow
def test_overrides_of_another_parameter_file(server, project):
    """Parameters of the study's own file are changed in an experiment; the workspace stays as it was."""
    dvc("repro", FILE)
    git("add", "-A")
    git("commit", "-q", "-m", "done")
    ran()

    flow.compare(overrides={"pipelines/cmp/params.yaml:train.add": 200}, pipeline=FILE)

    assert set(ran()) == {stage for stage in NEEDS if stage.startswith("train")} | {"report"}
    assert (table()["early-0"]["result"], table()["report"]["result"], table()["report"]["metrics"]) == ("cached", "ran", "total 848")
    assert json.loads(Path("out/report.json").read_text())["total"] == 448 and git("status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize("round", range(3))
def test_parallel_dvc_keeps_every_entry_of_the_lock(project, round):
    """Concurrent `dvc repro` of one dvc.yaml, ending together, all get their entry in dvc.lock: the flow relies on DVC's lock."""
    dvc("repro", "--single-item", "split")
    for names in (["early@0", "early@1"], ["train@a-3-0", "train@a-3-1", "train@b-50-0", "train@b-50-1"]):
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
        started = [subprocess.Popen([*command, f"{FILE}:{n}"], stdout=subprocess.DEVNULL) for n in names]
        assert [process.wait() for process in started] == [0] * len(names)

    entries = yaml.safe_load(Path("pipelines/cmp/dvc.lock").read_text())["stages"].keys()
    assert entries == {"early@0", "early@1", "train@a-3-0", "train@a-3-1", "train@b-50-0", "train@b-50-1"}


def running(pid: int) -> bool:
    """Whether a process still runs; an ended one stays a zombie until its parent, init in this case, reaps it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition is true.

    Raises:
        AssertionError: after the time limit.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_cancelled_with_two_running(project, install):
    """SIGTERM to `python -m flows.compare` ends both running stages and starts no other; the next call does what is missing."""
    environment = install(project)
    wait = "from nas.runtime import processes\nprocesses.die_with_parent()\n"
    wait += "if name.startswith('early') and not pathlib.Path('go').exists():\n"
    wait += "    pathlib.Path('pids').mkdir(exist_ok=True)\n    pathlib.Path('pids', str(os.getpid())).touch()\n    time.sleep(60)\n"
    Path("work.py").write_text(CODE.replace("total =", wait + "total ="))
    command = [sys.executable, "-m", "flows.compare", "--at-once", "2", "--target", "train", "--pipeline", FILE]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 240
        while len(pids := [int(path.name) for path in Path("pids").glob("*")]) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert len(pids) == 2 and process.returncode != 0 and time.monotonic() - sent < 50
    until(lambda: not any(map(running, pids)), 10)
    assert ran() == ["split"]

    Path("go").touch()
    subprocess.run(command, env=environment, check=True)
    assert set(ran()) == {stage for stage in NEEDS if stage not in ("split", "report")}
