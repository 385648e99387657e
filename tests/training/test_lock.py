"""One process trains in a run folder at a time; what a kill left behind stops nobody."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saccade.errors import ResourceError, UsageError
from saccade.training.lock import NAME, is_held, lock


def test_a_second_run_is_refused_and_the_folder_is_free_afterwards(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lock(run):
        assert is_held(run)
        assert json.loads((run / NAME).read_text())["pid"] == os.getpid()
        (run / "config.json").write_text("{}")
        with pytest.raises(UsageError, match=rf"process {os.getpid()} is training in this folder"), lock(run):
            pass
        assert (run / NAME).is_file()
    assert not is_held(run)
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


@pytest.mark.parametrize("left", [b"", b'{"pid": ', b"[]", b'{"pid": "x"}', b'{"pid": 1}', b"\xff\x00", b"9" * 5000])
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, left: bytes) -> None:
    """Also where its id is another's today: the lock is the system's, the content only says who has it."""
    (tmp_path / NAME).write_bytes(left)
    assert not is_held(tmp_path)
    with lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_holder_whose_id_means_nothing_here_still_holds(tmp_path: Path) -> None:
    """A container counts its processes for itself, and on a network folder the holder is on another machine."""
    with lock(tmp_path):
        (tmp_path / NAME).write_text('{"pid": 99999999, "host": "elsewhere"}')
        with pytest.raises(UsageError, match="process 99999999 on 'elsewhere' is training"), lock(tmp_path):
            pass
        (tmp_path / NAME).write_text("")
        with pytest.raises(UsageError, match="another process is training"), lock(tmp_path):
            pass


def test_a_loader_process_that_outlives_its_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    read, write = os.pipe()
    with lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with lock(tmp_path):  # while the child lives
        pass
    os.close(write)
    os.close(read)
    os.waitpid(child, 0)


def test_where_a_file_system_has_no_locks_a_living_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock(tmp_path):
        own = json.loads((tmp_path / NAME).read_text())
        with pytest.raises(UsageError, match=f"process {os.getpid()} is training"), lock(tmp_path):
            pass
    for change in ({"started": "1"}, {"boot": "another"}, {"pid": 99999999999999999999}):
        (tmp_path / NAME).write_text(json.dumps(own | change))
        with lock(tmp_path):
            assert json.loads((tmp_path / NAME).read_text()) == own


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_a_lock_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "run" / NAME
    path.parent.mkdir()
    if kind == "link":
        target.write_text("precious")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    with pytest.raises(ResourceError, match=str(path)), lock(path.parent):
        pass
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "precious"


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "run").symlink_to("there")
    with lock(tmp_path / "run"):
        assert (tmp_path / "there" / NAME).is_file()
        with pytest.raises(UsageError), lock(tmp_path / "there"):
            pass


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
    monkeypatch.setenv("RANK", "1")  # left over from elsewhere: there are no others
    with lock(tmp_path) as first:
        assert first
        monkeypatch.setattr("saccade.training.lock.is_main_process", lambda: False)
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
        _, output = process.communicate(timeout=600)
        assert process.returncode == 0, output.decode()
    assert not (tmp_path / "inside").exists()
