"""The pipeline flow on a small DVC project; files that the stages write show which of them ran."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows import pipeline as flow
from flows import stages

CODE = """
import json, os, pathlib, sys
name, value, source, *rest = sys.argv[1:]
print("working on", name, flush=True)
number = int(pathlib.Path(source).read_text())
pathlib.Path(f"{name}.txt").write_text(str(number + int(value)))
pathlib.Path(f"{name}.json").write_text(json.dumps({"total": number + int(value), "name": name}))
if number < 0:
    sys.exit(f"{name}: {number} is negative; change start.txt")
with (pathlib.Path(os.environ["DVC_ROOT"]) / "calls.log").open("a") as log:
    print(name, os.environ.get("NAS_PIPELINE"), os.environ.get("PREFECT__FLOW_RUN_ID"), file=log)
"""
STAGE = """
  {name}:
    cmd: {python} work.py {name} ${{{name}.add}} {source}
    deps: [work.py, {source}]
    params: [{name}]
    outs: [{name}.txt]
    metrics: [{name}.json: {{cache: false}}]
"""


def dvc(*args: str) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *args], check=True, capture_output=True, text=True).stdout


def git(*args: str) -> str:
    return subprocess.run(["git", *args], check=True, capture_output=True, text=True).stdout


def under_git_and_dvc(folder: Path) -> Path:
    """The folder as a DVC project with all files in a first commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        dvc("init", "-q")
        dvc("config", "core.analytics", "false")
        git("add", "-A")
        git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "start")
    return folder


def calls() -> list[str]:
    """The stages that really ran, in order."""
    log = Path("calls.log")
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """Stages m <- z and k <- z; neither alphabetical nor file order is topological."""
    folder = tmp_path_factory.mktemp("template") / "project"
    folder.mkdir()
    (folder / "work.py").write_text(CODE)
    (folder / "start.txt").write_text("1")
    (folder / "params.yaml").write_text("m: {add: 10}\nz: {add: 100}\nk: {add: 1000}\n")
    sources = {"m": "z.txt", "z": "start.txt", "k": "z.txt"}
    stages = [STAGE.format(name=name, python=sys.executable, source=source) for name, source in sources.items()]
    (folder / "dvc.yaml").write_text("stages:" + "".join(stages))
    (folder / ".gitignore").write_text("calls.log\n*.txt\n!start.txt\n__pycache__/\n")
    return under_git_and_dvc(folder)


@pytest.fixture
def project(template, tmp_path, monkeypatch, plain_environment) -> Path:
    """A copy of the template as the current folder."""
    folder = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def rows() -> list[dict]:
    """The table of the last flow run."""
    from prefect.artifacts import Artifact

    return json.loads(Artifact.get("pipeline").data)


def results() -> dict[str, str]:
    return {row["stage"]: row["result"] for row in rows()}


def test_the_plan_follows_the_edges(project):
    """A stage comes after its dependencies; a target adds its dependencies only."""
    assert [stage.address for stage in stages.plan([])] == ["z", "k", "m"]
    assert stages.plan(["m"]) == [stages.Stage("z", ("z.json",), ()), stages.Stage("m", ("m.json",), ("z",))]


def test_an_unknown_target_is_refused(project):
    """The error lists the stages."""
    with pytest.raises(ValueError, match=r"tarin.*\['k', 'm', 'z'\]"):
        stages.plan(["tarin"])


def test_a_pipeline_is_found_by_its_name(monkeypatch):
    """Names select the main pipeline, those of pipelines/ and those of studies/; dependencies in other pipelines are included."""
    monkeypatch.chdir(Path(stages.__file__).parents[1])
    planned = stages.plan(stages.addresses(["derive"], flow.dvc_file("tf_nas")))
    assert [stage.address.removeprefix("pipelines/tf_nas/dvc.yaml:") for stage in planned] == ["split", "latency", "search", "derive"]
    (address,) = stages.addresses([], flow.dvc_file("strategies"))
    assert address == "studies/strategies/dvc.yaml" and stages.plan([address])
    assert stages.plan(stages.addresses([], flow.dvc_file("main"))) == stages.plan(["dvc.yaml"])
    with pytest.raises(ValueError, match=r"unknown pipeline 'tfnas'; the pipelines are \['main',.*'tf_nas'"):
        flow.dvc_file("tfnas")


def test_overrides_need_a_value(project):
    """`--set epochs` is refused before anything starts."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(flow.app, ["--set", "epochs"])

    assert result.exit_code == 2 and "KEY=VALUE" in result.output


def test_flow_and_dvc_agree(server, project):
    """After the flow `dvc repro` has nothing to do, and vice versa; a target's siblings do not run."""
    flow.pipeline(targets=["m"])
    assert calls() == ["z", "m"] and results() == {"z": "ran", "m": "ran"}

    dvc("repro")
    assert calls() == ["z", "m", "k"]

    flow.pipeline()
    assert calls() == ["z", "m", "k"] and results() == {"z": "cached", "k": "cached", "m": "cached"}
    assert {row["stage"]: row["metrics"] for row in rows()} == {"z": "total 101", "k": "total 1101", "m": "total 111"}


def test_force_runs_stages_that_are_up_to_date(server, project):
    """`force` runs them; all stages of a flow run get its id, for MLflow."""
    dvc("repro", "z")

    flow.pipeline(targets=["m"], force=True)

    log = [line.split() for line in Path("calls.log").read_text().splitlines()]
    assert [line[0] for line in log] == ["z", "z", "m"]
    (_, pipeline, flow_run), last = log[1:]
    assert len(pipeline) == 36 and pipeline == flow_run and last[1:] == [pipeline, flow_run] and log[0][1] == "None"


def test_a_failed_stage_fails_the_flow(server, project, caplog):
    """The error has the stage's last output, the log all of it; the table shows what did not run; a fixed stage runs again."""
    Path("start.txt").write_text("-1")

    with pytest.raises(stages.StageFailed, match=r"z: -1 is negative; change start\.txt"):
        flow.pipeline()
    assert results() == {"z": "failed", "k": "not run", "m": "not run"}
    assert "working on z" in caplog.messages

    Path("start.txt").write_text("5")
    flow.pipeline(targets=["z"])
    assert results() == {"z": "ran"}


def test_overrides_leave_the_workspace_unchanged(server, project):
    """Overrides run an experiment with its metrics in the table; parameters and outputs of the workspace stay."""
    dvc("repro")
    git("add", "-A")
    git("commit", "-q", "-m", "done")

    flow.pipeline(targets=["m"], overrides={"m.add": 20})

    experiment, *stages = rows()
    assert (experiment["result"], experiment["seconds"] > 0) == ("ran", True)
    assert [(row["stage"], row["result"], row["metrics"]) for row in stages] == [("z", "cached", "total 101"), ("m", "ran", "total 121")]
    assert calls() == ["z", "m", "k", "m"] and json.loads(Path("m.json").read_text())["total"] == 111
    assert git("status", "--porcelain") == "" and experiment["stage"].split()[1] in dvc("exp", "list", "--name-only")


def without_delay(monkeypatch) -> None:
    """Retry immediately."""
    monkeypatch.setattr(flow, "run_stage", stages.run_stage.with_options(retry_delay_seconds=0))


def test_a_failed_stage_is_not_retried(server, project, monkeypatch, caplog):
    """A failed stage runs once, with a remote or without."""
    without_delay(monkeypatch)
    Path("start.txt").write_text("-1")
    for shared in (False, True):
        if shared:
            dvc("remote", "add", "-d", "store", "store")
        caplog.clear()
        with pytest.raises(stages.StageFailed, match="is negative") as error:
            flow.pipeline(targets=["z"])
        assert error.type is stages.StageFailed and caplog.messages.count("working on z") == 1


def test_an_unavailable_remote_is_retried(server, project, monkeypatch):
    """The stage runs once, its outputs are pushed four times; then the run fails and says that the stage is done."""
    without_delay(monkeypatch)
    Path("a file").touch()
    dvc("remote", "add", "-d", "store", str(Path("a file/store").absolute()))
    tried, push = [], stages._push
    monkeypatch.setattr(stages, "_push", lambda *words: (tried.append(1), push(*words)))
    with pytest.raises(stages.RemoteFailed, match="z is done, but could not be pushed"):
        flow.pipeline(targets=["z"])
    assert len(tried) == 1 + len(stages.RETRY_DELAYS_S) and calls() == ["z"] and results() == {"z": "failed"}


def test_a_remote_that_recovers_is_used(server, project, monkeypatch):
    """The third attempt succeeds; the stage ran once, and the table says so."""
    without_delay(monkeypatch)
    dvc("remote", "add", "-d", "store", "store")
    tried, push = [], stages._push

    def flaky(stage: stages.Stage, commands: stages.Commands) -> None:
        tried.append(stage)
        if len(tried) < 3:
            raise stages.RemoteFailed("no answer")
        push(stage, commands)

    monkeypatch.setattr(stages, "_push", flaky)
    flow.pipeline(targets=["z"])
    assert len(tried) == 3 and calls() == ["z"] and results() == {"z": "ran"}


def test_stages_that_run_networks_are_recognised(monkeypatch):
    """Stages that read the section runtime or latency run networks; split and fit_predictor do not."""
    monkeypatch.chdir(Path(stages.__file__).parents[1])
    plain = {stage.address for stage in stages.plan([]) if not stage.runs_networks}
    assert plain == {"split", "fit_predictor"}
    compared = stages.plan(["studies/strategies/dvc.yaml"])
    assert all(stage.runs_networks for stage in compared if ":train@" in stage.address or ":pretrain@" in stage.address)


@pytest.mark.filterwarnings("ignore:Logger")  # a task without a flow
def test_the_gpu_limit_holds_for_stages_that_run_networks(server, project):
    """While every GPU slot is held such a stage waits and others run; afterwards the slot is free again."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    (stage,) = stages.plan(["z"])
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(stages.GPU, 1)
        try:
            assert stages.limits_set() == {stages.GPU}
            options = stages.RunOptions(stages.Commands(), force=False, shared=False, limits=stages.limits_set())
            with concurrency(stages.GPU):
                stages.run_stage(stage, stages.StageResult("z"), options)
                assert calls() == ["z"]
                waiting = stages.RunOptions(stages.Commands(), force=True, shared=False, limits=stages.limits_set())
                waiting.commands.ended.set()
                with pytest.raises(stages.StageFailed, match="no slot of the limit 'gpu'"):
                    stages.run_stage(replace(stage, runs_networks=True), stages.StageResult("z"), waiting)
            stages.run_stage(replace(stage, runs_networks=True), stages.StageResult("z"), options)
            assert client.read_global_concurrency_limit_by_name(stages.GPU).active_slots == 0
        finally:
            client.delete_global_concurrency_limit_by_name(stages.GPU)


@pytest.mark.slow
def test_another_machine_takes_over_through_the_remote(server, project, tmp_path, monkeypatch):
    """A fresh clone without dvc.lock fetches what another machine ran; a changed stage runs there on fetched inputs."""
    dvc("remote", "add", "-d", "store", str(tmp_path / "store"))
    git("commit", "-qam", "remote")
    git("clone", "-q", ".", str(tmp_path / "clone"))
    flow.pipeline(targets=["m"])
    assert results() == {"z": "ran", "m": "ran"}

    monkeypatch.chdir(tmp_path / "clone")
    flow.pipeline(targets=["m"])
    assert results() == {"z": "cached", "m": "cached"} and calls() == []
    assert json.loads(Path("m.json").read_text())["total"] == 111

    Path("z.json").unlink()  # a metrics file is in no remote's dvc.lock
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("10}", "30}"))
    flow.pipeline(targets=["m"])
    assert calls() == ["m"] and Path("m.txt").read_text() == "131" and Path("z.json").exists()


@pytest.mark.slow
def test_server_deployment_and_worker(project, prefect_processes):
    """With the commands of prefect.yaml the deployed flows complete, their schedules are inactive, and `dvc repro` has nothing to do."""
    with prefect_processes(project) as prefect:
        call = prefect.call
        call("deploy", "--all")
        prefect.start("worker", "start", "--pool", "local", "--limit", "1")

        call("deployment", "run", "pipeline/full", "--watch")
        call("deployment", "run", "compare/strategies", "--param", "pipeline=dvc.yaml", "--param", "at_once=2", "--watch")

        for deployment in ("pipeline/full", "compare/strategies"):
            deployed = json.loads(call("deployment", "inspect", deployment, "--output", "json"))
            assert [schedule["active"] for schedule in deployed["schedules"]] == [False]
            assert deployed["global_concurrency_limit"]["limit"] == 1
        ended = [run["state_type"] for run in json.loads(call("flow-run", "ls", "--output", "json"))]
        assert ended == ["COMPLETED", "COMPLETED"] and calls() == ["z", "k", "m"]
        assert yaml.safe_load(Path("dvc.lock").read_text())["stages"].keys() == {"z", "k", "m"}
        dvc("repro")
        assert calls() == ["z", "k", "m"]


@pytest.mark.slow
def test_without_a_server_and_cancelled(project, install):
    """`python -m flows.pipeline` needs no set-up; SIGTERM ends the stage too, and the next call completes it."""
    environment = install(project)
    wait = "from nas.runtime import processes\nprocesses.die_with_parent()\npathlib.Path('pid').write_text(str(os.getpid()))\n"
    wait += "if not pathlib.Path('go').exists():\n    print('waiting', flush=True)\n    __import__('time').sleep(60)\n"
    Path("work.py").write_text(CODE.replace("number = int(", wait + "number = int("))
    command = [sys.executable, "-m", "flows.pipeline", "--target", "m"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "waiting" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode != 0 and calls() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)

    Path("go").touch()
    subprocess.run(command, env=environment, check=True)
    assert calls() == ["z", "m"]


SECRETS = re.compile(r"(?i)\w*(password|token|secret|api_key|auth_string)\w*[\"']?\s*[:=]\s*[\"']?[^\s\"'{]")
POOLS = Path(stages.__file__).parent / "pools"


@pytest.mark.parametrize("path", [*POOLS.iterdir(), POOLS.parents[1] / "prefect.yaml"], ids=lambda path: path.name)
def test_no_secret_is_in_a_deployment(path):
    """No key that names a secret has a value."""
    assert not [match[0] for match in SECRETS.finditer(path.read_text()) if "automountServiceAccountToken" not in match[0]]


@pytest.mark.slow
def test_docker_and_kubernetes_deploy(project, prefect_processes):
    """The commands at the top of each file create the pools and deploy both flows with variables that the pool knows."""
    with prefect_processes(project) as prefect:
        for pool in ("docker", "kubernetes"):
            file = f"flows/pools/{pool}.yaml"
            made, deployed = (
                next(line.split("--no-prompt ")[1].split() for line in Path(file).read_text().splitlines() if word in line)
                for word in ("work-pool create", "deploy --all")
            )
            prefect.call(*made)
            prefect.call(*deployed)
            template = json.loads(prefect.call("work-pool", "inspect", pool, "--output", "json"))["base_job_template"]
            known = template["variables"]["properties"]
            used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
            assert used <= known.keys() and set(template["variables"].get("required", [])) <= known.keys()
            for name in ("pipeline", "compare"):
                deployment = json.loads(prefect.call("deployment", "inspect", f"{name}/{pool}", "--output", "json"))
                assert deployment["work_pool_name"] == pool and deployment["global_concurrency_limit"]["limit"] == 1
                assert deployment["job_variables"] and deployment["job_variables"].keys() <= known.keys()
                assert deployment["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/work"}}]
        docker = json.loads(prefect.call("deployment", "inspect", "pipeline/docker", "--output", "json"))
        assert docker["job_variables"]["volumes"] == [f"{project}:/work"]
