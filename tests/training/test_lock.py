"""One process trains in a run folder at a time; what a kill left behind stops nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saccade.errors import UsageError
from saccade.training.lock import NAME, lock


def test_a_second_run_is_refused_and_the_folder_is_free_afterwards(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lock(run):
        assert json.loads((run / NAME).read_text())["pid"] == os.getpid()
        (run / "config.json").write_text("{}")
        with pytest.raises(UsageError, match=rf"process {os.getpid()} is training in this folder"), lock(run):
            pass
        assert (run / NAME).is_file()
    assert [p.name for p in run.iterdir()] == ["config.json"]
    with lock(run):
        pass


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), lock(tmp_path / "run"):
        raise ValueError
    assert not (tmp_path / "run").exists()
    (tmp_path / "there").mkdir()
    with lock(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def _ended() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "left", ["", '{"pid": ', "[]", '{"pid": "x"}', '{"pid": 99999999999999999999}', "another start", "dead", "boot"]
)
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, left: str) -> None:
    with lock(tmp_path):
        own = json.loads((tmp_path / NAME).read_text())
    changed = {"another start": {"started": "1"}, "dead": {"pid": _ended()}, "boot": {"boot": "another"}}
    (tmp_path / NAME).write_text(json.dumps(own | changed[left]) if left in changed else left)
    with lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text()) == own


def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=_env())
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match=f"process {process.pid} "), lock(tmp_path):
        pass
    process.kill()
    process.stdout.read()  # until the end of the process; its exit code is not asked for yet
    while _state(process.pid) not in ("Z", ""):
        pass
    with lock(tmp_path):
        pass
    process.wait()


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] if stat.is_file() else ""


def test_only_the_first_of_several_processes_of_a_run_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(tmp_path) as first:
        assert first
        monkeypatch.setenv("RANK", "1")
        with lock(tmp_path) as first:
            assert not first


_HOLD = """
import sys, time
from pathlib import Path
from saccade.training.lock import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)  # it is killed before
"""
_RACE = """
import sys, time
from pathlib import Path
from saccade.errors import UsageError
from saccade.training.lock import lock
go = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.read(1)
for turn in range(20):
    try:
        with lock(go / "run"):
            (go / "inside").mkdir()  # fails where two are inside
            time.sleep(0.002)
            (go / "inside").rmdir()
    except UsageError:
        time.sleep(0.001)
"""


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).write_text('{"pid": 0}')
    command = [sys.executable, "-c", _RACE, str(tmp_path)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_env())
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in started:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said.decode()
    assert not (tmp_path / "inside").exists()
