"""The command line as a shell sees it: exit codes, one clear line, JSON alone on stdout."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saccade import checkpoint
from saccade.cli_start import SPINS
from saccade.cli_start import run as _main


def _run(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["saccade", *arguments])
    code = _main()
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "Did you mean"),
        (["train"], 2, "Missing argument"),
        (["train", "resnet1", "{data}"], 2, "the nearest here: resnet"),
        (["train", "resnet20", "{data}", "--epochz", "3"], 2, "No such option"),
        (["train", "resnet20", "{data}", "--set", "learning_rate=1"], 2, "did you mean 'lr'"),
        (["train", "resnet20", "{data}", "--epochs", "0"], 2, "epochs is 0, allowed: at least 1"),
        (["train", "resnet20", "{data}", "--size", "7"], 2, "at least 8"),
        (["train", "resnet20", "{data}", "--device", "cuda:9"], 2, "available: cpu"),
        (["train", "alexnet", "{data}", "--size", "32"], 2, "size 32x32 is too small for alexnet"),
        (["train", "resnet20", "{data}", "--task", "fly"], 2, "cannot be trained to fly"),
        (["train", "resnet20", "{tmp}/nothing"], 3, "nothing"),
        (["train", "resnet20", "{tmp}/empyt"], 3, "no such file or folder; did you mean {tmp}/empty?"),
        (["train", "resnet20", "{tmp}/empty"], 3, "empty"),
        (["train", "resnet20", "{data}", "--weights", "{tmp}/w.pth"], 4, "w.pth"),
        (["evaluate", "{tmp}/nothing", "{data}"], 4, "no such run"),
        (["evaluate", "{tmp}/page.safetensors", "{data}"], 4, "web page"),
        (["predict", "{tmp}/nothing", "{data}"], 4, "no such run"),
        (["check", "{tmp}/empty"], 3, "empty"),
        (["models", "--task", "fly"], 2, "unknown task"),
    ],
)
def test_faults_are_one_line_and_a_code(
    arguments: list[str],
    code: int,
    message: str,
    colours: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.safetensors").write_text("<html>")
    filled = [a.format(data=colours, tmp=tmp_path) for a in arguments]
    got, out, err = _run(*filled, capsys=capsys, monkeypatch=monkeypatch)
    assert (got, out) == (code, ""), err
    assert message.format(tmp=tmp_path) in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_no_permission_is_exit_5(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    arguments = ("train", "resnet20", str(colours), "--out", str(tmp_path / "run"), "--workers", "0", "--epochs", "1")
    code, _, err = _run(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 5
    assert "no permission" in err


def test_models_lists_what_the_catalogue_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = _run("models", "--json", capsys=capsys, monkeypatch=monkeypatch)
    entries = {e["name"]: e for e in json.loads(out)}
    assert code == 0
    assert entries["resnet50"]["parameters"] == 25_557_032
    assert {"name", "task", "paper", "year", "parameters", "macs"} <= set(entries["resnet50"])
    code, out, _ = _run("models", "--task", "segment", capsys=capsys, monkeypatch=monkeypatch)
    assert "unet" in out
    assert " resnet50 " not in out


def test_help_and_models_import_no_torch() -> None:
    program = (
        "import sys; from saccade.cli_start import run as _main\n"
        "for words in (['--help'], ['models'], ['settings'], ['train', '--help']):\n"
        "    sys.argv = ['saccade', *words]; assert _main() == 0\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'matplotlib', 'accelerate'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_spin_briefly_unless_the_user_has_said_how(given: dict[str, str], wanted: str | None) -> None:
    program = (
        "import os, sys; from saccade.cli_start import run as _main\n"
        "sys.argv = ['saccade', '--version']; assert _main() == 0 and 'torch' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= given | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(wanted)


def test_a_program_that_imports_saccade_keeps_its_own_threads() -> None:
    program = "import os, saccade; saccade.train; assert 'GOMP_SPINCOUNT' not in os.environ"
    env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_setting_is_reachable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = _run("settings", "--json", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert {"lr", "minutes", "ema"} <= {row["name"] for row in json.loads(out)}


def _process(*arguments: str, before: str = "", **more: Any) -> subprocess.CompletedProcess[bytes]:
    """`saccade ...` as a process of a shell; `before` stands in front of it, `{}` for it in a line of its own."""
    line = shlex.join([sys.executable, "-m", "saccade", *arguments])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more.pop("env", {})
    return subprocess.run(["sh", "-c", before.format(line) or line], env=env, capture_output=True, timeout=600, **more)


@pytest.mark.parametrize("line", ["{} | head -1", "{} <&-", "{} </dev/null", "{} 2>&-", "{} >&-"])
def test_a_reader_that_leaves_and_streams_that_are_closed(line: str) -> None:
    done = _process("models", before=line)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["models"], ["models", "--json"], ["settings"], ["--help"], ["train", "--help"], ["--version"]]
)
def test_a_reader_that_has_left_is_141(arguments: list[str]) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "saccade", *arguments]
    done = subprocess.run(command, env=env, stdout=write, stderr=subprocess.PIPE, timeout=60)
    both = subprocess.run(command, env=env, stdout=write, stderr=write, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
    assert both.returncode == 141


def test_a_fault_that_nobody_reads_keeps_its_code(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    read, write = os.pipe()
    os.close(read)
    for arguments, code in ((["check", tmp_path / "none"], 3), (["train", "none", tmp_path], 2), (["train"], 2)):
        command = [sys.executable, "-m", "saccade", *map(str, arguments)]
        assert subprocess.run(command, env=env, stderr=write, timeout=60).returncode == code
    os.close(write)


_INTERRUPTED = """
import os, signal, sys
class Interrupting:  # Ctrl-C while the module of this name is looked for
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["saccade", "train", "resnet20", "."]
from saccade.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "saccade.cli_output", "saccade.verbs.train", "torch", "numpy"])
def test_ctrl_c_before_anything_has_begun(module: str) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = _INTERRUPTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (130, b"")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"LC_ALL": "C"}, "\N{OWL}".encode()),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, b"?"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\\U0001f989"),
    ],
    ids=["C", "ASCII", "Latin-1"],
)
def test_names_are_printed_in_any_language(env: dict[str, str], name: bytes, tmp_path: Path) -> None:
    done = _process("check", "\N{OWL}\N{HIRAGANA LETTER A}", cwd=tmp_path, env=env)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert b"no such" in done.stderr
    assert name in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_of_twenty_columns() -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    for words in (["models"], ["--help"], ["train"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "saccade", *words], env=env, stdin=theirs, stdout=theirs, stderr=subprocess.STDOUT
        )
        output = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                output += os.read(ours, 65536)
        assert process.returncode == (2 if words == ["train"] else 0)
        assert b"Traceback" not in output
        assert output
    os.close(ours)
    os.close(theirs)


def test_names_of_files_and_classes_do_not_reach_the_terminal_as_commands(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202egpj.png"
    spelt = "\\x1b]0;mine\\x07\\x1b[2J\\x9b31m\\u202egpj.png"
    Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / f"bad{name}").write_bytes(b"")
    state = checkpoint.load(run / "best.safetensors")
    state.classes = ["\x1b[31mred", "\x1b[31mblue"]
    checkpoint.save(state, tmp_path / "a.safetensors")
    for folder in ("a", f"b{name}"):
        (tmp_path / "set" / "train" / folder).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "set" / "train" / folder / f"{i}.png")
        (tmp_path / "set" / "train" / folder / name).write_bytes(b"")
    model, out = str(tmp_path / "a.safetensors"), str(tmp_path / "out")
    pictures = [str(tmp_path / name), str(tmp_path / f"bad{name}")]
    commands = [
        ["predict", model, *pictures, "--out", out],
        ["explain", model, *pictures, "--out", out, "--methods", "grad_cam"],
        ["check", str(tmp_path / "set")],
        ["train", "resnet20", str(tmp_path / "set"), "--out", f"{out}-run", "--epochs", "1", "--batch", "2"],
        ["predict", model, str(tmp_path / f"no{name}")],
        ["predict", str(tmp_path / f"no{name}"), pictures[0]],
        [f"no{name}"],
    ]
    for command in commands:
        code, text, err = _run(*command, capsys=capsys, monkeypatch=monkeypatch)
        assert code != 1
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]", text + err), (command, text, err)
        # typer spells the names of commands out itself, tables break long ones
        assert spelt in text + err or command[0] in ("check", f"no{name}"), (text, err)
    code, text, _ = _run("predict", model, pictures[0], "--json", capsys=capsys, monkeypatch=monkeypatch)
    assert json.loads(text)[0]["image"] == pictures[0]
    assert json.loads(text)[0]["label"] in state.classes


@pytest.mark.parametrize(
    ("verb", "name", "own"),
    [("train", "tree", "--tree"), ("train", "out", "--out"), ("train", "model", "model"), ("transfer", "data", "data")],
)
def test_set_does_not_take_the_commands_own_options(
    verb: str, name: str, own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "resnet20", "."] if verb == "train" else ["transfer", ".", "--weights", "cifar10"]
    code, _, errors = _run(*words, "--set", f"{name}=x", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert f"--set {name}=...: {name} is no setting; the command has it as {own}" in " ".join(errors.split())
