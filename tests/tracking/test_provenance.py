"""Fingerprints against dvc.lock as DVC writes it, and the process helpers against real processes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dvc.utils.serialize import load_yaml

from nas.runtime import processes
from nas.tracking import provenance

STAGE = (
    "import sys, pathlib; from nas.runtime import processes; from nas.tracking import provenance; pathlib.Path(sys.argv[1]).write_text({})"
)
DVC_YAML = """
stages:
  first:
    cmd: {python} code/first.py out.txt
    deps: [code]
    params: [first]
    outs: [out.txt]
  second:
    cmd: {python} code/second.py seen.txt
    deps: [code, out.txt]
    params: [seed, {{other.yaml: null}}]
    outs: [seen.txt]
"""


IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def fingerprint_from_lock(stage: str) -> str:
    """From what DVC wrote when the stage ran."""
    entry = load_yaml("dvc.lock")["stages"][stage]
    facts = [entry["cmd"], {d["path"]: d["md5"] for d in entry["deps"]}, entry.get("params", {})]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def dvc(*args: str) -> str:
    return run(sys.executable, "-m", "dvc", "-q", *args)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """Two stages; each writes the fingerprint that it sees while DVC runs it."""
    folder = tmp_path_factory.mktemp("template") / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code/first.py").write_text(STAGE.format("provenance.fingerprint('first') + ' ' + str(processes.project_root())"))
    (folder / "code/second.py").write_text(STAGE.format("provenance.fingerprint('second') + ' ' + processes.dvc_process()"))
    (folder / "params.yaml").write_text("first: {rate: 1.0e-4, sizes: [8, 16], name: 'no'}\nseed: 3\n")
    (folder / "other.yaml").write_text("a: 1\n")
    (folder / "dvc.yaml").write_text(DVC_YAML.format(python=sys.executable))
    run("git", "init", "-q", cwd=folder)
    run(sys.executable, "-m", "dvc", "-q", "init", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", *IDENTITY, "commit", "-q", "-m", "start", cwd=folder)
    return folder


@pytest.fixture
def project(template, tmp_path, monkeypatch) -> Path:
    """A copy of it, the current folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(provenance.__file__).parents[2]))
    for key in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(key, raising=False)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    folder = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def test_the_fingerprint_is_the_same_before_during_and_after_a_run(project):
    """Computed by hand, by the stage while `dvc repro` holds its locks, and from dvc.lock: one value for each stage."""
    before = provenance.fingerprint("first")

    dvc("repro")

    assert [before, str(project)] == Path("out.txt").read_text().split()
    assert fingerprint_from_lock("first") == before
    during = Path("seen.txt").read_text().split()[0]
    assert during == provenance.fingerprint("second") == fingerprint_from_lock("second") != before


def test_inputs_are_the_hashes_of_the_lock_file(project):
    """The md5 of a file is that of its bytes."""
    Path("out.txt").write_text("x")

    assert provenance.inputs("second")["out.txt"] == hashlib.md5(b"x").hexdigest()
    assert provenance.inputs("second")["code"].endswith(".dir")


def test_the_fingerprint_follows_content_only(project):
    """A parameter, a dependency and the command change it; a touched file and another stage's parameter don't."""
    start = provenance.fingerprint("first")
    Path("code/first.py").touch()
    with Path("params.yaml").open("a") as file:
        file.write("unrelated: 1\n")
    assert provenance.fingerprint("first") == start

    seen = {start}
    for path, old, new in [("params.yaml", "16", "32"), ("code/second.py", "second", "2nd"), ("dvc.yaml", "first.py", "./first.py")]:
        Path(path).write_text(Path(path).read_text().replace(old, new))
        seen.add(provenance.fingerprint("first"))
    assert len(seen) == 4


def test_a_stage_in_an_experiment_copy_belongs_to_the_parent_project(project):
    """`dvc exp run --temp` runs in a copy, and yet project_root is the project; the fingerprint is the experiment's."""
    here = provenance.fingerprint("first")

    dvc("exp", "run", "--temp", "-n", "exp", "-S", "first.rate=0.5")
    dvc("exp", "apply", "exp")

    inside, root = Path("out.txt").read_text().split()
    assert root == str(project)
    assert inside == provenance.fingerprint("first") != here


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [("third", ValueError, "third"), ("no/dvc.yaml:first", ValueError, "no/dvc.yaml"), ("second", RuntimeError, "out.txt")],
)
def test_a_missing_stage_or_dependency_is_named(project, stage, error, message):
    """A stage, a dvc.yaml and a dependency that aren't there."""
    with pytest.raises(error, match=message):
        provenance.fingerprint(stage)


def test_a_missing_parameter_is_named(project):
    """dvc.yaml asks for `first`, params.yaml doesn't have it."""
    Path("params.yaml").write_text("seed: 1\n")

    with pytest.raises(RuntimeError, match="'first' are missing"):
        provenance.fingerprint("first")


def test_stages_that_are_up_to_date(project):
    """As `dvc status` says: none before a run; a changed parameter or dependency outdates a stage and those after it."""
    names = lambda stage: [result.name for result in provenance.up_to_date(stage)]  # noqa: E731
    assert names("first") == []
    dvc("repro")
    assert (names("first"), names("second")) == (["second"], ["first"])

    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 3", "seed: 4"))
    assert (names("first"), names("second")) == ([], ["first"])
    Path("code/first.py").touch()
    assert names("second") == ["first"]
    with Path("code/first.py").open("a") as file:
        file.write("# changed")
    assert names("second") == []


def test_an_outdated_stage_outdates_those_after_it(project):
    """Although their own dependencies have not changed yet."""
    with Path("dvc.yaml").open("a") as file:
        file.write("  third: {cmd: echo x > third.txt, outs: [third.txt]}\n")
    dvc("repro")
    assert [result.name for result in provenance.up_to_date("third")] == ["first", "second"]

    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("16", "32"))
    assert provenance.up_to_date("third") == []


def test_an_up_to_date_stage_has_its_parameters_and_metrics(project):
    """Those of dvc.lock, and outputs/<stage>/metrics.json; of a matrix nothing."""
    stages = """
stages:
  train:
    desc: attentive training
    cmd: >-
      mkdir -p outputs/train && echo '{"top1": 1.5, "name": "x"}' > outputs/train/metrics.json
    params: [first]
    metrics: [outputs/train/metrics.json: {cache: false}]
  seeds: {matrix: {seed: [a, b]}, cmd: "echo x > seed-${item.seed}", outs: ["seed-${item.seed}"]}
  report: {cmd: echo x}
"""
    Path("dvc.yaml").write_text(stages)
    dvc("repro")

    first = {"rate": 1e-4, "sizes": [8, 16], "name": "no"}
    assert provenance.up_to_date("report") == [provenance.Result("train", "attentive training", {"first": first}, {"top1": 1.5})]


def test_git_state(project):
    """Clean after a commit, also with a new dvc.lock and outputs; dirty after an edit."""
    Path("dvc.lock").write_text("schema: '2.0'\n")
    Path("outputs/train").mkdir(parents=True)
    Path("outputs/train/metrics.json").write_text("{}")
    assert provenance.git_state() == (run("git", "rev-parse", "HEAD").strip(), False)

    Path("params.yaml").write_text("seed: 4\n")
    assert provenance.git_state()[1]


def test_without_git(tmp_path, monkeypatch):
    """No commit, no crash, and `require_git` says what to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    assert provenance.git_state() == (None, False)

    with pytest.raises(RuntimeError, match="git init && git add -A && git commit"):
        processes.require_git()
    with pytest.raises(RuntimeError, match="git init"):
        provenance.fingerprint("train")


def test_before_the_first_commit(tmp_path, monkeypatch):
    """There is no commit to name, and everything is uncommitted."""
    monkeypatch.chdir(tmp_path)
    run("git", "init", "-q")
    (tmp_path / "file").write_text("x")

    assert provenance.git_state() == (None, True)


def test_outside_a_project(tmp_path, monkeypatch):
    """It says where it looked."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RuntimeError, match="not inside a DVC project"):
        processes.project_root()


def test_a_token_dies_with_its_process():
    """Also when another process gets the same pid (another start time); on another host nobody can tell."""
    child = subprocess.Popen(["sleep", "60"])
    token = processes.process_token(child.pid)
    host, pid, start = token.rsplit(":", 2)
    assert processes.alive(token)
    assert not processes.alive(f"{host}:{pid}:{start}5")

    child.kill()
    child.wait()

    assert not processes.alive(token)
    assert processes.alive(f"elsewhere:{pid}:{start}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the start time depends on the clock")
def test_a_token_does_not_depend_on_the_clock(monkeypatch):
    """psutil's start of a process moves when the clock is set; the token stays, and so the process counts as alive."""
    token = processes.process_token()
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
    assert processes.process_token() == token and processes.alive(token)


def test_the_dvc_process_is_found_through_shells(project):
    """A stage names the `dvc` that runs it, not the shell between them; without DVC there is none."""
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("code/second.py seen.txt", "code/second.py seen.txt; true"))
    command = subprocess.Popen([sys.executable, "-m", "dvc", "-q", "repro"])
    token = processes.process_token(command.pid)

    assert command.wait() == 0
    assert Path("seen.txt").read_text().split()[1] == token
    assert processes.dvc_process() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_stage_dies_with_its_parent():
    """Killing the parent, which can't pass anything on, ends the child."""
    child = "import time; from nas.runtime.processes import die_with_parent; die_with_parent(); print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid, flush=True); p.wait()"
    environment = os.environ | {"PYTHONPATH": str(Path(provenance.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment) as process:
        token = processes.process_token(int(process.stdout.readline()))
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)

        assert process.stdout.read() == ""  # ends when nobody holds the other end: the child has gone too

    deadline = time.monotonic() + 10
    while processes.alive(token) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.alive(token)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_an_orphan_ends_itself(tmp_path):
    """The parent may be gone before the child gets to ask for a signal."""
    marker = str(tmp_path / "marker")
    child = f"import time; time.sleep(0.5); from nas.runtime import processes; processes.die_with_parent(); open({marker!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"PYTHONPATH": str(Path(provenance.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment) as process:
        process.stdout.read()

    assert not Path(marker).exists()
