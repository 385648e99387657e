"""Files are whole or absent."""

import errno
import os
import signal
from pathlib import Path

import pytest

from saccade.errors import ModelFileError, ResourceError
from saccade.machine.files import inside, open_regular, remove_leftovers, write_whole


def test_the_old_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="no space left"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_flushed_before_the_rename_and_beside_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle))[1])

    def note(source: Path, target: Path) -> None:
        events.append("rename")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    write_whole(tmp_path / "a", b"x")
    assert events == ["fsync", "rename", "fsync"]


def _write_in_two_pieces(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"new ")
        file.flush()
        _step("half")
        file.write(b"content")


def _step(name: str) -> None:
    """The point where the process is killed, if it is this one."""
    if name == os.environ.get("DIE_AT"):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("point", "content", "leftovers"),
    [
        ("nothing", b"new content", 0),
        ("half", b"old", 1),
        ("before flush 1", b"old", 1),
        ("after flush 1", b"old", 1),
        ("after rename", b"new content", 0),
        ("after flush 2", b"new content", 0),
    ],
)
def test_killed_at_any_point_of_a_write_the_old_or_the_new_file_is_whole(
    tmp_path: Path, point: str, content: bytes, leftovers: int
) -> None:
    """The child dies by SIGKILL, so that no `finally` helps it."""
    path = tmp_path / "run" / "state" / "a"
    path.parent.mkdir(parents=True)
    write_whole(path, b"old")
    child = os.fork()
    if child == 0:
        fsync, replace, flushes = os.fsync, os.replace, iter("12")

        def watched_fsync(handle: int) -> None:
            number = next(flushes)
            _step(f"before flush {number}")
            fsync(handle)
            _step(f"after flush {number}")

        def watched_replace(source: Path, target: Path) -> None:
            replace(source, target)
            _step("after rename")

        os.environ["DIE_AT"], os.fsync, os.replace = point, watched_fsync, watched_replace
        write_whole(path, _write_in_two_pieces)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (point != "nothing")
    assert path.read_bytes() == content
    assert len(list(path.parent.glob(".*.tmp"))) == leftovers
    remove_leftovers(path.parent)  # what the next start does
    assert os.listdir(path.parent) == ["a"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.123.tmp").write_text("half")
    kept = ["b.tmp", ".c.tmp", "state/deeper/.a.json.123.tmp"]  # the user's
    for name in [*kept, "state/.resume.safetensors.7.tmp"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path, tmp_path / "state", tmp_path / "plots")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EROFS, "no permission"),
        (5, "os error 5"),
    ],
)
def test_faults_of_the_disk_that_a_library_words_itself(tmp_path: Path, number: int, says: str) -> None:
    def fail(temporary: Path) -> None:
        raise RuntimeError(f"Error while serializing: I/O error: words (os error {number})")

    with pytest.raises(ResourceError, match=says):
        write_whole(tmp_path / "a.safetensors", fail)


def test_other_faults_are_passed_on(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        raise ValueError("not of the disk")

    with pytest.raises(ValueError, match="not of the disk"):
        write_whole(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int) -> None:
    """Also where a library makes it for its owner alone, as safetensors does."""

    def private(temporary: Path) -> None:
        temporary.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))

    before = os.umask(mask)
    try:
        write_whole(tmp_path / "text", "x")
        write_whole(tmp_path / "library", private)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    for name in ("a", f".a.{os.getpid()}.tmp", f".b.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(target)
    write_whole(tmp_path / "a", "x")
    write_whole(tmp_path / "b", lambda temporary: temporary.write_text("x"))
    assert target.read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()
    assert not (tmp_path / "b").is_symlink()


def test_what_leads_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "pipe")
    assert inside(tmp_path / "link", "file").read_text() == "x"  # the folder itself is the user's word
    assert inside(tmp_path, "real", "none", "deeper") == tmp_path / "real/none/deeper"
    for parts in (("link",), ("link", "file"), ("link", "none"), ("pipe",)):
        with pytest.raises(ModelFileError, match=parts[0]):
            inside(tmp_path, *parts)
    (tmp_path / "file").symlink_to("real/file")
    with open_regular(tmp_path / "file", links=True) as file:
        assert file.read() == b"x"
    (tmp_path / "to pipe").symlink_to("pipe")
    for name, mode, links in (
        ("file", "rb", False),
        ("file", "ab", False),
        ("pipe", "rb", True),
        ("to pipe", "rb", True),
        ("pipe", "ab", False),
        ("real", "rb", True),
        ("none", "rb", True),
    ):
        with pytest.raises(OSError):
            open_regular(tmp_path / name, mode, links)
