"""Stages as MLflow runs, read back with MLflow's client from a real database."""

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from nas.runtime import processes
from nas.tracking import delivery, provenance, runs, session, store
from nas.tracking.runs import StageRun
from nas.tracking.store import TrackingConfig

CONFIG = TrackingConfig(uri="sqlite:///mlflow.db", experiment="test", system_metrics=False)
STAGES = "stages:\n" + "".join(f"  {s}: {{cmd: echo {s}, deps: [data.txt], params: [{s}]}}\n" for s in ("train", "search", "report"))
GROUP = session.Group("compared", "a")
SOURCE = str(Path(session.__file__).parents[2])
OPEN = "import sys\nfrom nas.tracking import session\nwith session.stage_run(sys.argv[1], {}) as run: run.log({'x': 1}, 0)\n"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """Its creation takes seconds, so the tests start from copies."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A DVC project, to be copied."""
    folder = tmp_path_factory.mktemp("template") / "project"
    folder.mkdir()
    (folder / "data.txt").write_text("x")
    tracking = "".join(f"  {key}: {str(value).lower()}\n" for key, value in CONFIG.model_dump().items())
    (folder / "params.yaml").write_text("train: {epochs: 2}\nsearch: 1\nreport: 1\ntracking:\n" + tracking)
    (folder / "dvc.yaml").write_text(STAGES)
    subprocess.run(["git", "init", "-q"], check=True, cwd=folder)
    subprocess.run([sys.executable, "-m", "dvc", "-q", "init"], check=True, cwd=folder, capture_output=True)
    return folder


@pytest.fixture
def bare(template, tmp_path, monkeypatch) -> Path:
    """A DVC project without a database."""
    for key in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "NAS_PIPELINE", "RANK", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(key, raising=False)
    folder = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def project(bare, empty_database, monkeypatch) -> Path:
    """A DVC project with an empty database, and this process as its pipeline."""
    shutil.copy(empty_database, bare / "mlflow.db")
    start_pipeline(monkeypatch, "one")
    return bare


@pytest.fixture
def dead_token() -> str:
    """Of a process that was."""
    process = subprocess.Popen(["sleep", "60"])
    token = processes.process_token(process.pid)
    process.kill()
    process.wait()
    return token


def start_pipeline(monkeypatch, key: str) -> None:
    monkeypatch.setenv("NAS_PIPELINE", key)


def database() -> str:
    """MLflow keeps a store open by its address, so that must differ between tests."""
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def client():
    import mlflow

    return mlflow.MlflowClient(database())


def read(run_id: str):
    return client().get_run(run_id)


def status(run_id: str) -> str:
    return read(run_id).info.status


def go(stage: str, **options) -> StageRun:
    """A stage that has nothing to do."""
    with session.stage_run(stage, {}, **options) as run:
        pass
    return run


def interrupt(stage: str, error: BaseException) -> StageRun:
    """A stage that stops half-way."""
    with pytest.raises(type(error)), session.stage_run(stage, {}) as run:
        raise error
    return run


def test_import_is_light():
    """Neither mlflow nor torch comes with the module."""
    code = "import sys, nas.tracking.session, nas.tracking.provenance; print({'mlflow', 'torch', 'dvc'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(session.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stdout == "set()\n"


def test_a_run_holds_what_the_stage_logged(project):
    """Parameters flat, every step, data by its md5, a table, a file, tags; final metrics also on the pipeline's run."""
    import hashlib

    import pandas as pd

    with session.stage_run("train", {"train": {"epochs": 2, "sets": ["a", "b"]}, "seed": 0}, strategy="bestup-3-loss") as run:
        run.log({"train/loss": 2}, step=0)
        run.log({"train/loss": 1.5}, step=1)
        run.summary({"top1": 70}, "train")
        run.dataset("data.txt", "training", images=6000)
        run.table(pd.DataFrame({"flops": [1, 2]}), "family.json")
        run.table(pd.DataFrame({"flops": [3]}), "family.json")
        run.artifact("params.yaml", "settings")
        run.tag(device="cpu")

    logged, parent = read(run.id), read(run.parent_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.artifact_uri.startswith((project / "mlartifacts").as_uri())
    assert logged.data.params == parent.data.params == {"train.epochs": "2", "train.sets": "['a', 'b']", "seed": "0"}
    assert [(m.step, m.value) for m in client().get_metric_history(run.id, "train/loss")] == [(0, 2), (1, 1.5)]
    assert parent.data.metrics == {"train/top1": 70} and logged.data.metrics["seconds"] > 0
    data = logged.inputs.dataset_inputs[0]
    assert (data.dataset.digest, data.dataset.name) == (hashlib.md5(b"x").hexdigest(), "data.txt")
    assert {t.key: t.value for t in data.tags} == {"images": "6000", "mlflow.data.context": "training"}
    assert client().load_table(logged.info.experiment_id, "family.json", [run.id])["flops"].tolist() == [3]
    assert Path(client().download_artifacts(run.id, "settings/params.yaml")).read_text() == Path("params.yaml").read_text()
    tags = logged.data.tags
    assert tags["dvc.fingerprint"] == provenance.fingerprint("train") and tags["dvc.stage"] == "train"
    assert (tags["git.dirty"], tags["nas.strategy"], tags["device"]) == ("true", "bestup-3-loss", "cpu")


def test_many_parameters(project):
    """MLflow takes 100 in one call."""
    with session.stage_run("train", {"a": {str(i): i for i in range(250)}}) as run:
        pass

    assert len(read(run.id).data.params) == 250


def test_data_that_the_stage_does_not_depend_on(project):
    """Its hash can't be known, so it is refused."""
    with pytest.raises(ValueError, match=r"other\.txt is not among"), session.stage_run("train", {}) as run:
        run.dataset("other.txt", "training")


def test_stages_of_a_pipeline_share_a_parent(project):
    """It is RUNNING while one of them runs, and FINISHED after each: `dvc repro train` leaves no open run."""
    train = go("train")
    assert status(train.parent_id) == "FINISHED"
    with session.stage_run("search", {}) as search:
        assert search.parent_id == train.parent_id and status(train.parent_id) == "RUNNING"
        client().update_run(train.id, status="RUNNING")  # another stage of the pipeline, at the same time
    assert status(train.parent_id) == "RUNNING"
    client().set_terminated(train.id)
    report = go("report")

    assert report.parent_id == train.parent_id
    parent = read(train.parent_id)
    assert (parent.info.status, parent.info.end_time) == ("FINISHED", read(report.id).info.end_time)
    assert read(train.id).data.tags["mlflow.parentRunId"] == train.parent_id


def test_a_parent_has_the_worst_status_of_its_stages(project):
    """After a failed stage, others finish (`dvc repro --keep-going`): the parent is FAILED until that stage succeeds."""
    failed = interrupt("train", ValueError("x"))
    assert status(go("search").parent_id) == "FAILED"
    train = go("train")
    assert (train.id, train.parent_id, status(train.parent_id)) == (failed.id, failed.parent_id, "FINISHED")


def test_a_stage_run_by_hand_has_its_own_parent(project, monkeypatch):
    """It ends with the stage."""
    monkeypatch.delenv("NAS_PIPELINE")

    assert status(go("train").parent_id) == "FINISHED"


@pytest.mark.parametrize(
    ("error", "word"),
    [(KeyboardInterrupt(), "KILLED"), (session.Terminated(143), "KILLED"), (ValueError("x"), "FAILED"), (SystemExit(1), "FAILED")],
)
def test_the_status_of_an_ended_stage(project, error, word):
    """Ctrl-C and SIGTERM kill it, anything else that goes wrong fails it; the pipeline likewise."""
    run = interrupt("train", error)

    assert status(run.id) == status(run.parent_id) == word


def test_sigterm_unwinds_the_stage(project):
    """`kill` lets the stage clean up, a second one at once too, and marks the run; afterwards SIGTERM does what it did before."""
    cleaned = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, session.stage_run("train", {}) as run:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    assert caught.value.code == 143 and cleaned and status(run.id) == "KILLED"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("disk full")])
def test_an_interrupted_stage_resumes_its_run(project, monkeypatch, error):
    """The next pipeline takes over run and parent, seconds add up, and nothing is left unfinished."""
    done, broken = go("search"), interrupt("train", error)
    first = read(broken.id).data.metrics["seconds"]
    start_pipeline(monkeypatch, "two")

    with session.stage_run("train", {}) as run:
        assert status(run.id) == status(run.parent_id) == "RUNNING"
    report = go("report")

    assert run.resumed and (run.id, run.parent_id) == (broken.id, done.parent_id) and report.parent_id == run.parent_id
    assert read(run.id).data.metrics["seconds"] > first
    assert [r.info.status for r in client().search_runs([read(run.id).info.experiment_id], "tags.`dvc.stage` = 'train'")] == ["FINISHED"]


def test_an_interrupted_stage_joins_a_pipeline_that_has_begun(project, monkeypatch):
    """Where earlier stages ran anew, the run moves below their parent."""
    broken = interrupt("train", KeyboardInterrupt())
    start_pipeline(monkeypatch, "two")
    search, train = go("search"), go("train")

    assert train.id == broken.id and train.parent_id == search.parent_id != broken.parent_id
    assert read(train.id).data.tags["mlflow.parentRunId"] == search.parent_id


def test_a_killed_stage_resumes_its_run(project, monkeypatch, dead_token):
    """After kill -9 the run still says RUNNING, but its process is gone."""
    killed = go("train")
    client().update_run(killed.id, status="RUNNING")
    client().set_tag(killed.id, delivery.PROCESS, dead_token)
    client().set_tag(killed.parent_id, delivery.PROCESS, dead_token)
    start_pipeline(monkeypatch, "two")

    run = go("train")

    assert run.resumed and (run.id, run.parent_id) == (killed.id, killed.parent_id)
    assert status(run.id) == status(run.parent_id) == "FINISHED"


@pytest.mark.parametrize("change", ["finished", "runs", "params.yaml"])
def test_runs_that_are_not_resumed(project, change):
    """A finished stage, one that still runs in another process, and one with other parameters get a new run."""
    first = go("train") if change == "finished" else interrupt("train", KeyboardInterrupt())
    if change == "runs":
        client().update_run(first.id, status="RUNNING")
    if change == "params.yaml":
        Path(change).write_text(Path(change).read_text().replace("epochs: 2", "epochs: 3"))

    second = go("train")

    assert not second.resumed and second.id != first.id


def test_abandoned_runs_are_ended(project, monkeypatch, dead_token):
    """A killed stage and its parent become KILLED, as does a parent that was killed before its first stage; living ones stay."""
    alive = go("train")
    start_pipeline(monkeypatch, "two")
    killed = go("search")
    start_pipeline(monkeypatch, "three")
    for run_id in (alive.id, alive.parent_id, killed.id, killed.parent_id):
        client().update_run(run_id, status="RUNNING")
    for run_id in (killed.id, killed.parent_id):
        client().set_tag(run_id, delivery.PROCESS, dead_token)
    lone = client().create_run("1", tags={delivery.PIPELINE: "four", delivery.PROCESS: dead_token}).info.run_id

    go("report")

    assert [status(r) for r in (alive.id, alive.parent_id)] == ["RUNNING", "RUNNING"]
    assert [status(r) for r in (killed.id, killed.parent_id, lone)] == ["KILLED"] * 3


def test_a_final_metric_adds_no_point_to_its_curve(project):
    """Top-1 of two epochs stays a curve of two points; the pipeline's run gets the final metric, and so does a run without the curve."""
    with session.stage_run("train", {}) as run:
        run.log({"train/top1": 40}, step=1)
        run.log({"train/top1": 70}, step=2)
        run.summary({"top1": 70, "size": 3}, "train")

    curve = client().get_metric_history(run.id, "train/top1")
    assert [(m.step, m.value) for m in curve] == [(1, 40), (2, 70)]
    assert read(run.id).data.metrics["train/size"] == 3
    assert read(run.parent_id).data.metrics["train/top1"] == 70


def test_runs_of_a_group_share_a_parent(project, monkeypatch):
    """In every pipeline and at any time: the parent runs again with each of them."""
    first = go("train", group=GROUP)
    assert go("search", group=GROUP).parent_id == first.parent_id
    for number in ("two", "three"):
        start_pipeline(monkeypatch, number)
        with session.stage_run("train", {}, group=GROUP) as run:
            assert run.parent_id == first.parent_id and status(first.parent_id) == "RUNNING"
        assert status(first.parent_id) == "FINISHED"
    assert read(first.parent_id).info.run_name == "compared"


@pytest.mark.slow
def test_two_processes_of_a_group_share_a_parent(project, monkeypatch):
    """At once, without a pipeline above them: only one of them makes it."""
    monkeypatch.delenv("NAS_PIPELINE")
    environment = os.environ | {"PYTHONPATH": str(Path(session.__file__).parents[2])}
    code = OPEN.replace("{})", "{}, title=sys.argv[1] + '!', group=session.Group('compared', 'a'), shares=False)")
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment}
    stages = [subprocess.Popen([sys.executable, "-c", code, stage], **options) for stage in ("train", "search")]

    errors = [process.communicate()[1] for process in stages]

    assert [p.returncode for p in stages] == [0, 0], errors
    runs = client().search_runs([e.experiment_id for e in client().search_experiments()])
    (parent,) = (r for r in runs if delivery.PARENT not in r.data.tags)
    assert {r.info.run_name for r in runs if r is not parent} == {"train!", "search!"} and parent.info.run_name == "compared"
    assert {r.data.tags[delivery.PARENT] for r in runs if r is not parent} == {parent.info.run_id}


def test_another_key_makes_another_parent(project):
    """As does another name; runs without a group stay below their pipeline's."""
    groups = [GROUP, session.Group("compared", "b"), session.Group("others", "a"), None]
    assert len({go("train", group=group).parent_id for group in groups}) == 4


def test_a_run_that_shares_nothing_leaves_its_parent_unchanged(project):
    """Its parameters, figures and strategy are its own; those of a run that shares are the parent's too."""
    with session.stage_run("train", {"seed": 1}, strategy="uniform", group=GROUP, shares=False, title="uniform, seed 1") as one:
        one.summary({"top1": 70}, "train")
    with session.stage_run("report", {"seeds": [0, 1]}, group=GROUP) as report:
        report.summary({"uniform/top1": 71}, "mean")

    logged, parent = read(one.id), read(one.parent_id)
    assert (logged.data.params, logged.data.metrics["train/top1"]) == ({"seed": "1"}, 70)
    assert (logged.info.run_name, logged.data.tags["nas.strategy"]) == ("uniform, seed 1", "uniform")
    assert report.parent_id == one.parent_id
    assert (parent.data.params, parent.data.metrics) == ({"seeds": "[0, 1]"}, {"mean/uniform/top1": 71})
    assert "nas.strategy" not in parent.data.tags and "dvc.stage" not in parent.data.tags


def test_an_interrupted_run_of_a_group_is_resumed(project, monkeypatch):
    """In its run, below the same parent, which runs again although the interruption had ended it."""
    with pytest.raises(KeyboardInterrupt), session.stage_run("train", {}, group=GROUP, shares=False) as first:
        raise KeyboardInterrupt
    assert status(first.id) == status(first.parent_id) == "KILLED"
    start_pipeline(monkeypatch, "two")
    run = go("train", group=GROUP, shares=False)
    assert run.resumed and (run.id, run.parent_id) == (first.id, first.parent_id)
    assert status(run.id) == status(run.parent_id) == "FINISHED"


def test_the_other_ranks_write_nothing(project, monkeypatch):
    """Rank 1 calls the same methods, and no store is opened."""
    monkeypatch.setenv("RANK", "1")
    Path("mlflow.db").unlink()

    with session.stage_run("train", {}) as run:
        run.log({"x": 1}, step=0)
        run.summary({"x": 1}, "train")
        run.model("net", None, None, "nets", "best")

    assert not Path("mlflow.db").exists()


def test_mlflow_tracking_uri_overrides(project, monkeypatch, tmp_path):
    """The variable wins over params.yaml, and is as it was afterwards."""
    shutil.move("mlflow.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")

    go("train")

    assert not Path("mlflow.db").exists() and os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///other.db"


def test_a_store_that_is_not_there(project):
    """A port where nobody listens, and a folder that doesn't exist: at once, and with the key to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for uri in (f"http://127.0.0.1:{port}", "sqlite:////no/such/folder/mlflow.db"):
        with pytest.raises(store.TrackingError, match=rf"tracking\.uri is '{uri}'"):
            go("train", config=CONFIG.model_copy(update={"uri": uri}))
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_file_that_is_no_database(project):
    """The error names the file, which stays as it was."""
    Path("mlflow.db").write_text("not a database, but a text that is long enough" * 100)

    with pytest.raises(store.TrackingError, match=r"mlflow\.db"):
        go("train")
    assert Path("mlflow.db").read_text().startswith("not a database")


def test_two_processes_open_a_new_database_at_once(bare):
    """Neither breaks the other's migration; both runs are there, and the database takes several writers (WAL)."""
    import sqlite3

    environment = os.environ | {"PYTHONPATH": str(Path(session.__file__).parents[2])}
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment}
    stages = [subprocess.Popen([sys.executable, "-c", OPEN, stage], **options) for stage in ("train", "search")]

    errors = [process.communicate()[1] for process in stages]

    assert [p.returncode for p in stages] == [0, 0], errors
    database = sqlite3.connect("mlflow.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sorted(database.execute("SELECT name FROM runs JOIN metrics USING (run_uuid) WHERE key = 'x'")) == [("search",), ("train",)]


def test_a_model_comes_back_without_pickle(project, monkeypatch):
    """Registered, found by its alias, loaded with pickles forbidden, right for another batch size; the alias moves."""
    torch = pytest.importorskip("torch")
    import mlflow

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    images = torch.rand(7, 3, 8, 8)
    with session.stage_run("train", {}) as run:
        for _ in range(2):
            run.model("net", net, images[:2].numpy(), "family", "small", metrics={"top1": 50})
        with pytest.raises(ValueError, match="at least 2"):
            run.model("net", net, images[:1].numpy(), "family", "small")
        with pytest.raises(ValueError, match="training mode"):
            run.model("net", torch.nn.Dropout(), images[:2].numpy(), "family", "small")

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database())
    mlflow.set_tracking_uri(database())
    loaded = mlflow.pytorch.load_model("models:/family@small")
    torch.testing.assert_close(loaded(images), net(images))
    assert versions("family") == [1, 2] and client().get_model_version_by_alias("family", "small").version == 2
    logged = client().search_logged_models([client().get_run(run.id).info.experiment_id])
    assert {model.name for model in logged} == {"net"} and not Path("mlruns").exists()
    signature = mlflow.models.get_model_info("models:/family@small").signature
    assert signature.inputs.inputs[0].shape == (-1, 3, 8, 8) and signature.outputs.inputs[0].shape == (-1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pipeline_killed_under_dvc_is_resumed(bare, monkeypatch, number):
    """`dvc repro`, killed in the middle of a stage and called again: one run with every step once, one parent."""
    monkeypatch.setenv("PYTHONPATH", str(Path(session.__file__).parents[2]))
    Path("stage.py").write_text(
        "import pathlib, time\n"
        "from nas.tracking import session\n"
        "step = pathlib.Path('.step')\n"
        "with session.stage_run('train', {}) as run:\n"
        "    for i in range(int(step.read_text()) if step.exists() else 0, 4):\n"
        "        run.log({'x': i}, step=i)\n"
        "        step.write_text(str(i + 1))\n"
        "        if i == 1: print('half', flush=True); time.sleep(0 if run.resumed else 60)\n"
        "    pathlib.Path('out.txt').write_text('x')\n"
    )
    stage = f"  train: {{cmd: {sys.executable} stage.py, deps: [data.txt], params: [train], outs: [out.txt]}}\n"
    Path("dvc.yaml").write_text("stages:\n" + stage)
    repro = [sys.executable, "-m", "dvc", "repro"]
    with subprocess.Popen(repro, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "half\n":
                break
        process.send_signal(number)
        process.stdout.read()  # until the stage has gone too

    subprocess.run(repro, check=True)

    stage, parent = sorted(
        client().search_runs([e.experiment_id for e in client().search_experiments()]), key=lambda r: r.info.run_name != "train"
    )
    assert stage.info.status == parent.info.status == "FINISHED"
    assert [m.step for m in client().get_metric_history(stage.info.run_id, "x")] == [0, 1, 2, 3]
    assert stage.data.tags["dvc.fingerprint"] == provenance.fingerprint("train")


@pytest.fixture
def impatient(monkeypatch):
    """A locked database is away at once, and every record is a new try."""
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(runs, "FIRST_PAUSE", 0.0)


class Locked:
    """The database, written to by somebody else for a long time."""

    def __init__(self, ends: str) -> None:
        self._database = sqlite3.connect("mlflow.db", isolation_level=None)
        self._database.execute("BEGIN EXCLUSIVE")

    def end(self) -> None:
        self._database.close()


class Moved:
    """The database file under another name."""

    def __init__(self, ends: str) -> None:
        self._back = ends == "same file"
        os.rename("mlflow.db", "elsewhere.db")

    def end(self) -> None:
        (os.rename if self._back else shutil.copy)("elsewhere.db", "mlflow.db")


OUTAGES = {"locked": (Locked, ""), "moved": (Moved, "same file"), "restored": (Moved, "copy")}
GOES_AND_COMES = [(kind, *steps) for kind in OUTAGES for steps in ((1, 3), (0, 4), (2, None))]
GOES_AND_COMES += [("locked", None, 2), ("locked", None, None)]  # a file that is not there when a stage starts is made anew


def log_all(run, during=lambda step: None) -> None:
    """Everything that a stage can log."""
    import pandas as pd

    run.tag(device="cpu")
    run.dataset("data.txt", "training", images=6000)
    for step in range(4):
        during(step)
        run.log({"train/loss": 2 - step, "train/nan": float("nan")}, step)
        Path("figure.txt").write_text(f"{step}")
        run.artifact("figure.txt", f"{step}")
    run.table(pd.DataFrame({"flops": [1, 2], "name": ["a", "b"]}), "family.json")
    run.summary({"top1": 70, "loss": 5}, "train")
    during(4)


def contents(run_id: str, parent_id: str) -> dict:
    """What MLflow has, but for ids and times."""
    run, parent = read(run_id), read(parent_id)
    curves = {key: [(m.step, str(m.value)) for m in client().get_metric_history(run_id, key)] for key in run.data.metrics}
    curves["seconds"] = len(curves["seconds"])
    times = {key: [m.timestamp for m in client().get_metric_history(run_id, key)] for key in run.data.metrics}
    assert all(run.info.start_time <= t <= run.info.end_time for row in times.values() for t in row)
    assert times["train/loss"] == sorted(times["train/loss"])
    ids = (delivery.PARENT, delivery.START, "mlflow.loggedArtifacts")
    return {
        "metrics": curves,
        "params": run.data.params,
        "tags": {k: v for k, v in run.data.tags.items() if k not in ids},
        "status": run.info.status,
        "data": [(i.dataset.name, i.dataset.digest, {t.key: t.value for t in i.tags}) for i in run.inputs.dataset_inputs],
        "files": [Path(client().download_artifacts(run_id, f"{i}/figure.txt")).read_text() for i in range(4)],
        "table": client().load_table(run.info.experiment_id, "family.json", [run_id]).to_dict("list"),
        "parent": [(key, [m.value for m in client().get_metric_history(parent_id, key)]) for key in parent.data.metrics],
        "parent params": parent.data.params,
    }


def stage_of_this(monkeypatch, number: str) -> None:
    start_pipeline(monkeypatch, number)


@pytest.fixture
def undisturbed(project, monkeypatch) -> dict:
    """What MLflow has of a stage that ran while it was there."""
    stage_of_this(monkeypatch, "undisturbed")
    with session.stage_run("train", {"train": {"epochs": 2}}, strategy="uniform") as run:
        log_all(run)
    return contents(run.id, run.parent_id)


def trained(before: set[str]) -> list[str]:
    """Runs of the stage that have come."""
    return [r.info.run_id for r in client().search_runs(["1"], "tags.`dvc.stage` = 'train'") if r.info.run_id not in before]


def waiting() -> list[Path]:
    return list(Path(store.OUTBOX).glob("*/note.json"))


@pytest.mark.parametrize(("kind", "goes", "comes"), GOES_AND_COMES)
def test_nothing_is_lost_or_duplicated(undisturbed, impatient, monkeypatch, capsys, kind, goes, comes):
    """MLflow goes before a step (None: before the stage) and comes back before another (None: after it): as if it had been there."""
    outage, ends = OUTAGES[kind]
    stage_of_this(monkeypatch, "disturbed")
    before = set(trained(set()))
    away = outage(ends) if goes is None else None

    def during(step: int) -> None:
        nonlocal away
        if step == goes:
            away = outage(ends)
        if step == comes:
            away.end()

    with session.stage_run("train", {"train": {"epochs": 2}}, strategy="uniform") as run:
        log_all(run, during)
    if comes is None:
        away.end()
        assert waiting() and "python -m nas.tracking deliver" in capsys.readouterr().err
        subprocess.run([sys.executable, "-m", "nas.tracking", "deliver"], check=True, env=os.environ | {"PYTHONPATH": SOURCE})

    assert not waiting()
    (logged,) = trained(before)
    assert contents(logged, read(logged).data.tags[delivery.PARENT]) == undisturbed
    assert provenance.fingerprint("train") == read(logged).data.tags["dvc.fingerprint"]


def test_a_resumed_stage_logs_no_step_twice(project, monkeypatch):
    """Killed after logging a step and before its checkpoint, it logs that step once more: the curve has it once, as before."""
    with pytest.raises(KeyboardInterrupt), session.stage_run("train", {}) as first:
        for step in range(3):
            first.log({"x": step}, step)
        raise KeyboardInterrupt
    with session.stage_run("train", {}) as second:
        for step in range(2, 5):
            second.log({"x": step}, step)
        second.summary({"top1": 1}, "train")
    assert second.id == first.id
    assert [(m.step, m.value) for m in client().get_metric_history(first.id, "x")] == [(i, i) for i in range(5)]
    assert len(client().get_metric_history(first.id, "seconds")) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_killed_while_mlflow_is_away(project, impatient, monkeypatch, number):
    """Its next start delivers the outbox and resumes that run: every step once."""
    monkeypatch.delenv("NAS_PIPELINE")
    go("report")
    code = (
        "import os, sys\nfrom nas.tracking import session, store\nstore.LOCK_TIMEOUT = 0.01\nwith session.stage_run('train', {}) as run:\n"
    )
    code += "    for i in range(3): run.log({'x': i}, i)\n    print('logged', flush=True)\n    sys.stdin.read()\n"
    away = Locked("")
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | {"PYTHONPATH": SOURCE}}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        while process.stdout.readline() != "logged\n":
            assert process.poll() is None
        process.send_signal(number)
    away.end()
    assert waiting()

    with session.stage_run("train", {}) as run:
        for step in range(2, 4):
            run.log({"x": step}, step)

    assert run.resumed and not waiting() and trained(set()) == [run.id] and status(run.id) == "FINISHED"
    assert [(m.step, m.value) for m in client().get_metric_history(run.id, "x")] == [(i, i) for i in range(4)]


def test_a_lost_answer_duplicates_nothing(undisturbed, impatient, monkeypatch):
    """Two of five calls write and then fail, as if the server had died before it answered."""
    from mlflow import MlflowClient

    stage_of_this(monkeypatch, "disturbed")
    before, calls, chance = set(trained(set())), [], random.Random(0)

    def lossy(write):
        def call(*args, **kwargs):
            result = write(*args, **kwargs)
            calls.append(write.__name__)
            if chance.random() < 0.4:
                raise ConnectionResetError("the connection was reset")
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("create_run", "log_batch", "log_inputs", "log_artifact", "log_table", "log_text", "set_terminated"):
            patch.setattr(MlflowClient, name, lossy(getattr(MlflowClient, name)))
        with session.stage_run("train", {"train": {"epochs": 2}}, strategy="uniform") as run:
            log_all(run)
        for _ in range(20):
            if waiting():
                with store.use(CONFIG) as used:
                    delivery.deliver_all(used)
    (logged,) = trained(before)
    assert not waiting() and len(calls) > 10
    assert contents(logged, read(logged).data.tags[delivery.PARENT]) == undisturbed


def test_a_database_that_is_deleted_in_the_middle(project, impatient, capsys):
    """The next stage makes a new one, says so, and what the first one logged from then on is in it."""
    with session.stage_run("train", {"a": 1}) as run:
        run.log({"x": 0}, 0)
        for file in Path().glob("mlflow.db*"):
            file.unlink()
        run.log({"x": 1}, 1)
        run.summary({"top1": 3}, "train")
    assert waiting()
    code = "from nas.tracking import session as t\nwith t.stage_run('search', {}) as run: pass"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": SOURCE}, check=True, capture_output=True, text=True)
    assert "mlflow.db is missing: a new one is made" in done.stderr
    database = sqlite3.connect("mlflow.db")
    logged = database.execute("SELECT name, status, key, value, step FROM runs JOIN metrics USING (run_uuid) WHERE key != 'seconds'")
    assert sorted(logged) == [
        ("pipeline", "FINISHED", "train/top1", 3, 0),
        ("train", "FINISHED", "train/top1", 3, 0),
        ("train", "FINISHED", "x", 1, 1),
    ]
    assert not waiting()


def test_only_a_store_that_answered_before_is_waited_for(project, impatient):
    """The address that worked before is right, whatever happens now; one that never did may be mistyped."""
    other = CONFIG.model_copy(update={"uri": "sqlite:///other.db"})
    shutil.copy("mlflow.db", "other.db")
    go("train")
    for name in ("mlflow.db", "other.db"):
        Path(name).write_text("not a database, but a text that is long enough" * 100)
    go("search")
    assert waiting()
    with pytest.raises(store.TrackingError, match=r"other\.db"):
        go("search", config=other)


def test_a_refused_name_stops_the_stage(project):
    """A name that MLflow refuses stops the stage."""
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="Invalid value"), session.stage_run("train", {}) as run:
        run.log({"top1 %?*": 1}, 0)
    assert status(run.id) == "FAILED" and not waiting()


def test_a_name_refused_after_an_outage_stops_nothing(project, impatient, capsys):
    """It is moved to refused.jsonl and reported; the other records are delivered."""
    go("report")
    away = Locked("")
    with session.stage_run("train", {}) as run:
        run.log({"top1 %?*": 1}, 0)
        run.log({"x": 1}, 1)
        away.end()
    assert not waiting() and read(run.id).data.metrics["x"] == 1 and status(run.id) == "FINISHED"
    assert "%?*" in Path(store.OUTBOX, "refused.jsonl").read_text() and "MLflow refuses a record of train" in capsys.readouterr().err


def test_attempts_become_rarer(project, monkeypatch):
    """After 5, 10, 20, ... seconds, at most 300; 100 epochs of a minute without MLflow wait for it 25 times and not 100."""
    clock, tries = [0.0], []
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    go("report")
    reach = store.Store.reach

    def tried(*args, **kwargs):
        tries.append(clock[0])
        return reach(*args, **kwargs)

    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.001)
    monkeypatch.setattr(store.Store, "reach", tried)
    with session.stage_run("train", {}) as run:
        away = Locked("")
        tries.clear()
        for step in range(100):
            clock[0] = 60.0 * step
            run.log({"x": step}, step)
        away.end()
    gaps = [b - a for a, b in pairwise(tries)]
    assert len(tries) < 30 and max(gaps) == 300
    assert [m.step for m in client().get_metric_history(run.id, "x")] == list(range(100))


def test_a_clock_that_jumps(project, monkeypatch):
    """Hours back and a day forward while the stage runs: its times only grow, its seconds are those that passed, in a later process too."""
    real = time.time
    with pytest.raises(KeyboardInterrupt), session.stage_run("train", {}) as run:
        for step, jump in enumerate([0, -3600, 86400, -7200]):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            run.log({"x": step}, step)
        run.summary({"top1": 1}, "train")
        raise KeyboardInterrupt
    monkeypatch.setattr(runs, "_EPOCH", runs._EPOCH - 3600)  # the next process starts with the clock gone back
    with session.stage_run("train", {}) as resumed:
        resumed.log({"x": 4}, 4)

    curve = sorted(client().get_metric_history(run.id, "x"), key=lambda m: m.step)
    times = [m.timestamp for m in curve[:4]]
    assert resumed.id == run.id and len(curve) == 5 and times == sorted(times) and times[3] - times[0] < 60_000
    logged = read(run.id)
    first, second = (m.value for m in sorted(client().get_metric_history(run.id, "seconds"), key=lambda m: m.step))
    assert logged.data.metrics["x"] == 4 and logged.data.metrics["seconds"] == second > first and second < 60


def test_a_model_waits_for_mlflow(project, impatient, monkeypatch):
    """Logged while MLflow is away, it is registered once, with its alias, metrics and tags, when MLflow is back."""
    torch = pytest.importorskip("torch")
    import mlflow

    net, images = torch.nn.Linear(3, 2).eval(), torch.rand(5, 3)
    go("report")
    away = Locked("")
    with session.stage_run("train", {}) as run:
        run.model("net", net, images[:2].numpy(), "family", "small", {"top1": 50}, {"dataset": "glyphs"})
    assert waiting()
    away.end()
    with store.use(CONFIG) as used:
        assert [delivery.deliver_all(used) for _ in range(2)] == [0, 0]

    assert versions("family") == [1] and not waiting()
    version = client().get_model_version_by_alias("family", "small")
    assert version.tags == {"dataset": "glyphs"} and metrics_of("net") == {"top1": 50}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database())
    mlflow.set_tracking_uri(database())
    torch.testing.assert_close(mlflow.pytorch.load_model("models:/family@small")(images), net(images))


def test_a_resumed_stage_registers_no_model_twice(project):
    """Killed after it had registered the first of two: it starts anew, and each has one version."""
    torch = pytest.importorskip("torch")
    net, example = torch.nn.Linear(3, 2).eval(), torch.rand(2, 3).numpy()
    with pytest.raises(KeyboardInterrupt), session.stage_run("train", {}) as run:
        run.model("a", net, example, "family", "a")
        raise KeyboardInterrupt
    with session.stage_run("train", {}) as run:
        run.model("a", net, example, "family", "a")
        run.model("b", net, example, "family", "b")
    assert versions("family") == [1, 2]
    assert [client().get_model_version_by_alias("family", alias).version for alias in "ab"] == [1, 2]


def test_a_model_has_only_its_own_metrics(project):
    """Neither those of the run nor those of the models before it."""
    torch = pytest.importorskip("torch")
    with session.stage_run("train", {}) as run:
        run.log({"loss": 1}, 0)
        for name, top1 in (("a", 50), ("b", 60)):
            run.model(name, torch.nn.Linear(3, 2).eval(), torch.rand(2, 3).numpy(), "family", name, {"top1": top1, name: 1})
    assert metrics_of("a") == {"top1": 50, "a": 1} and metrics_of("b") == {"top1": 60, "b": 1}
    assert [(m.step, m.value) for m in client().get_metric_history(run.id, "top1")] == [(0, 50), (1, 60)]


def test_an_experiment_moves_no_alias(project, monkeypatch):
    """`dvc exp run` registers a version, and the alias stays with the project's."""
    torch = pytest.importorskip("torch")
    net, example = torch.nn.Linear(3, 2).eval(), torch.rand(2, 3).numpy()
    for experiment in (None, "wider"):
        if experiment:
            monkeypatch.setenv("DVC_EXP_NAME", experiment)
        with session.stage_run("train", {}) as run:
            run.model("a", net, example, "family", "a")
    assert versions("family") == [1, 2] and client().get_model_version_by_alias("family", "a").version == 1


def versions(name: str) -> list[int]:
    return sorted(int(v.version) for v in client().search_model_versions(f"name = '{name}'"))


def metrics_of(name: str) -> dict[str, float]:
    """Of a logged model."""
    (model,) = (m for m in client().search_logged_models(["1"]) if m.name == name)
    assert len({m.key for m in model.metrics}) == len(model.metrics)
    return {m.key: m.value for m in model.metrics}


PARTIAL = """
stages:
  split: {{cmd: {python} stage.py split, deps: [data.txt, stage.py], params: [split], metrics: [outputs/split/metrics.json]}}
  train:
    desc: attentive training
    cmd: {python} stage.py train
    deps: [outputs/split/metrics.json]
    params: [train, rate]
    metrics: [outputs/train/metrics.json: {{cache: false}}]
  latency: {{cmd: {python} stage.py latency, deps: [stage.py], params: [latency], metrics: [outputs/latency/metrics.json]}}
  report: {{cmd: {python} stage.py report, deps: [outputs/train/metrics.json, outputs/latency/metrics.json], outs: [out.txt]}}
"""
STAGE = """
import json, pathlib, sys
from nas.runtime import params
from nas.tracking import session
name = sys.argv[1]
parameters = params.read_all()
with session.stage_run(name, {name: parameters.get(name)}) as run:
    if name == "split": run.dataset("data.txt", "training")
    if name == "report":
        pathlib.Path("out.txt").write_text("x")
    else:
        out = pathlib.Path("outputs", name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps({"top1": parameters[name]["top1"]}))
        run.summary({"top1": parameters[name]["top1"]}, name)
"""


@pytest.mark.slow
def test_a_parent_holds_the_stages_that_dvc_did_not_run(bare, monkeypatch):
    """A changed parameter reruns one stage: its parent has parameters and metrics of those up to date, and not of outdated ones."""
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    Path("dvc.yaml").write_text(PARTIAL.format(python=sys.executable))
    Path("stage.py").write_text(STAGE)
    tracking = Path("params.yaml").read_text().partition("tracking:")[2]
    parameters = "split: {{top1: 1}}\ntrain: {{top1: {}}}\nlatency: {{top1: {}}}\nrate: 0.1\ntracking:" + tracking.replace("{", "{{")

    def repro(top1: int, latency: int, *target: str):
        Path("params.yaml").write_text(parameters.format(top1, latency))
        subprocess.run([sys.executable, "-m", "dvc", "-q", "repro", *target], check=True)
        runs = client().search_runs(["1"], order_by=["attributes.start_time DESC"])
        return next(r for r in runs if delivery.PARENT not in r.data.tags)

    complete = repro(2, 3)
    assert complete.data.metrics == {"split/top1": 1, "train/top1": 2, "latency/top1": 3}
    assert complete.inputs.dataset_inputs[0].dataset.name == "data.txt" and complete.info.status == "FINISHED"

    partial = repro(4, 3, "train")
    assert partial.info.run_id != complete.info.run_id and partial.info.status == "FINISHED"
    assert partial.data.metrics == {"split/top1": 1, "train/top1": 4, "latency/top1": 3}
    assert partial.data.params == {"split.top1": "1", "train.top1": "4", "latency.top1": "3"}
    assert (
        "- train: attentive training" in partial.data.tags[delivery.DESCRIPTION] and "report" not in partial.data.tags[delivery.DESCRIPTION]
    )

    outdated = repro(5, 6, "train")
    assert outdated.data.metrics == {"split/top1": 1, "train/top1": 5} and "latency.top1" not in outdated.data.params


def test_a_dvc_yaml_that_is_being_edited_fails_no_finished_stage(project, capsys):
    """The parent lacks the stages that are up to date, and stderr says so."""
    with session.stage_run("train", {}) as run:
        Path("dvc.yaml").write_text("stages: [")
    assert status(run.id) == status(run.parent_id) == "FINISHED"
    assert "lacks the stages that are up to date" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(bare, impatient, monkeypatch):
    """kill -9 in the middle of a stage, again in the next one's start: the curves are whole, each step once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"

    def serve() -> subprocess.Popen:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                return process
            time.sleep(0.1)
        raise TimeoutError(uri)

    def kill(process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = CONFIG.model_copy(update={"uri": uri})
    server = serve()
    try:
        with session.stage_run("train", {"a": 1}, config=config) as run:
            for step in range(6):
                if step == 2:
                    kill(server)
                if step == 4:
                    server = serve()
                run.log({"x": step}, step)
            Path("figure.txt").write_text("drawn")
            kill(server)
            run.artifact("figure.txt")
        with session.stage_run("search", {"b": 1}, config=config) as search:
            search.log({"y": 1}, 1)
            server = serve()
            search.log({"y": 2}, 2)
        go("report", config=config)
        import mlflow

        reader = mlflow.MlflowClient(uri)
        assert [(m.step, m.value) for m in reader.get_metric_history(run.id, "x")] == [(i, i) for i in range(6)]
        assert [m.step for m in reader.get_metric_history(search.id, "y")] == [1, 2]
        assert Path(reader.download_artifacts(run.id, "figure.txt")).read_text() == "drawn"
        assert [reader.get_run(i).info.status for i in (run.id, search.id)] == ["FINISHED"] * 2 and not waiting()
    finally:
        if server.poll() is None:
            kill(server)
