"""The sandbox: what a contained program cannot see, reach or change, each beside its control.

Every claim is tried twice: in bubblewrap, where it must hold, and with mechanism `none`, where the
same program must succeed; so a test that can see nothing at all cannot pass.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isobench_ray.environment import open_environment
from isobench_ray.experiment import EnvironmentSpec, SandboxPolicy
from isobench_ray.failure import FailureClass
from isobench_ray.process import run_process, start_ticks
from isobench_ray.sandbox import Mount, Sandbox, open_sandbox
from tests.fixtures_git import require_bubblewrap, wait_for

pytestmark = pytest.mark.sandbox


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    require_bubblewrap()


class Room:
    """A tree (read-only), a scratch folder (writable), and programs in them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.tree = Mount(folder / "tree", "/workspace")
        self.scratch = Mount(folder / "scratch", "/scratch", writable=True)
        for mount in (self.tree, self.scratch):
            mount.host.mkdir(parents=True)
        self.environment = open_environment(EnvironmentSpec())
        policy = SandboxPolicy.model_validate({"kind": kind})
        self.sandbox: Sandbox = open_sandbox(policy, self.environment)

    def python(self, code: str, *arguments: object, timeout_s: float = 20) -> Any:
        """Run a program that ends in `say(value)`; the value, or its error output."""
        preamble = "import json, sys\ndef say(value): print(json.dumps(value))\n"
        script = preamble + textwrap.dedent(code)
        argv = [self.environment.python, "-I", "-c", script, *map(str, arguments)]
        place = self.sandbox.path(self.scratch)
        variables = self.environment.variables(place, place)
        command = self.sandbox.contain(argv, [self.tree, self.scratch], self.tree, variables)
        out, err = self.folder / "out", self.folder / "err"
        result = run_process(
            command.argv, cwd=command.cwd, env=command.env, stdout=out, stderr=err,
            timeout_s=timeout_s, output_limit_bytes=10**6, ledger=self.folder / "ledger",
        )  # fmt: skip
        assert result.exit_code == 0, err.read_text()
        return json.loads(out.read_text())


@pytest.fixture
def inside(tmp_path) -> Room:
    return Room(tmp_path / "inside", "bubblewrap")


@pytest.fixture
def control(tmp_path) -> Room:
    return Room(tmp_path / "control", "none")


READ = """
import pathlib
try:
    say(pathlib.Path(sys.argv[1]).read_text())
except OSError as error:
    say(type(error).__name__)
"""


def test_it_cannot_read_files_outside_of_its_mounts(inside, control, tmp_path):
    (tmp_path / "secret").write_text("of the harness")
    assert inside.python(READ, tmp_path / "secret") == "FileNotFoundError"
    assert control.python(READ, tmp_path / "secret") == "of the harness"


@pytest.mark.parametrize("place", [Path(__file__), Path.home(), Path("/etc/shadow"), Path("/root")])
def test_it_sees_neither_this_repository_nor_anybodys_home(inside, control, place):
    exists = "import os\nsay(os.path.exists(sys.argv[1]))"
    home = Path.home()
    if any(Path(f).is_relative_to(home) for f in inside.environment.folders) and (
        home == place or place.is_relative_to(home) or home.is_relative_to(place)
    ):
        listing = "import os\nsay(os.listdir(sys.argv[1]))"
        assert not [n for n in inside.python(listing, home) if n not in (".pyenv", ".local")]
        return
    assert inside.python(exists, place) is False
    assert control.python(exists, place) is os.path.exists(place)  # noqa: PTH110 - as asked inside


def test_it_gets_no_variable_of_the_harness(inside, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key of the harness")
    names = inside.python("import os\nsay(dict(os.environ))")
    assert "AWS_SECRET_ACCESS_KEY" not in names
    given = {"PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "LANG", "TZ", "CUDA_VISIBLE_DEVICES"}
    assert set(names) - given <= {"PWD", "LC_CTYPE", "SHLVL", "_"}
    environs = """
    import glob
    seen = ""
    for place in glob.glob("/proc/*/environ"):
        try:
            seen += open(place).read()
        except OSError:
            pass
    say(sys.argv[1] in seen)
    """
    assert inside.python(environs, "key of the harness") is False


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on this machine's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


CONNECT = """
import socket
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=3).close()
    say("connected")
except OSError as error:
    say(type(error).__name__)
"""


def test_it_cannot_open_a_network_connection(inside, control, server):
    assert inside.python(CONNECT, server) == "ConnectionRefusedError"  # its own, empty loopback
    assert control.python(CONNECT, server) == "connected"
    interfaces = "import socket\nsay([name for _, name in socket.if_nameindex()])"
    assert inside.python(interfaces) == ["lo"]


def test_it_cannot_reach_an_abstract_socket_of_the_host(inside, control):
    code = """
    import socket
    try:
        socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1])
        say("connected")
    except OSError as error:
        say(type(error).__name__)
    """
    name = f"isobench-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        assert inside.python(code, name) == "ConnectionRefusedError"
        assert control.python(code, name) == "connected"


WRITE = """
import os, pathlib
try:
    pathlib.Path(sys.argv[1], "new").write_text("x")
    say("written")
except OSError as error:
    say(os.strerror(error.errno))
"""


def test_it_can_write_its_scratch_folder_and_nothing_else_of_the_host(inside, control):
    assert inside.python(WRITE, "/scratch") == "written"
    assert (inside.scratch.host / "new").read_text() == "x"
    assert inside.python(WRITE, "/workspace") == "Read-only file system"
    assert inside.python(WRITE, inside.environment.folders[0]) == "Read-only file system"
    assert inside.python(WRITE, "/usr") == "Read-only file system"
    assert list(inside.tree.host.iterdir()) == []
    assert control.python(WRITE, control.tree.host) == "written"


def test_what_it_writes_to_tmp_is_its_own_and_gone(inside):
    assert inside.python(WRITE, "/tmp") == "written"
    assert not Path("/tmp/new").exists()
    assert inside.python("import os\nsay(os.path.exists('/tmp/new'))") is False


def test_it_sees_and_signals_no_process_of_the_host(inside, control):
    code = """
    import os
    try:
        os.kill(int(sys.argv[1]), 0)
        found = True
    except OSError:
        found = False
    say([found, len([name for name in os.listdir("/proc") if name.isdigit()])])
    """
    sleeper = subprocess.Popen(["/bin/sleep", "60"])
    try:
        found, processes = inside.python(code, sleeper.pid)
        assert not found
        assert processes <= 3
        assert control.python(code, sleeper.pid)[0]
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_daemon_that_left_the_session_ends_with_the_sandbox(inside, control):
    code = """
    from subprocess import DEVNULL, Popen
    child = Popen(["/bin/sleep", "33.25"], start_new_session=True, stdout=DEVNULL, stderr=DEVNULL)
    say(child.pid)
    """

    def sleepers() -> list[Path]:
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if place.read_bytes() == b"/bin/sleep\x0033.25\x00":
                    found.append(place)
            except OSError:
                continue  # it ended while we looked
        return found

    inside.python(code)
    wait_for(lambda: not sleepers())
    pid = control.python(code)  # positive control: without a sandbox it lives on
    assert start_ticks(pid) is not None
    os.kill(pid, 9)


def test_it_is_not_root_and_gains_no_rights(inside):
    code = """
    import os, re
    status = open("/proc/self/status").read()
    say([os.getuid(), re.search(r"CapEff:\\s*(\\w+)", status)[1], re.search(r"NoNewPrivs:\\s*(\\d)", status)[1]])
    """  # noqa: E501
    uid, capabilities, no_new_rights = inside.python(code)
    assert uid == 1000
    assert int(capabilities, 16) == 0
    assert no_new_rights == "1"


def test_the_host_name_and_the_mounts_tell_nothing_of_the_host(inside, control, tmp_path):
    assert inside.python("import socket\nsay(socket.gethostname())") == "sandbox"
    assert control.python("import socket\nsay(socket.gethostname())") == socket.gethostname()


def test_the_environments_python_runs_and_finds_the_mounts(inside):
    (inside.tree.host / "a.txt").write_text("of the tree")
    assert inside.python("import os\nsay([os.getcwd(), sys.version_info[0]])") == ["/workspace", 3]
    assert inside.python(READ, "a.txt") == "of the tree"


def test_a_gpu_is_visible_only_to_who_leases_one(inside):
    argv, env = ["true"], {"A": "1"}
    command = inside.sandbox.contain(argv, [], inside.tree, env, gpus=("GPU-7",))
    at = command.argv.index("CUDA_VISIBLE_DEVICES")
    assert command.argv[at + 1] == "GPU-7"
    without = inside.sandbox.contain(argv, [], inside.tree, env)
    assert "GPU-7" not in without.argv


# Policies


def test_none_runs_the_program_as_it_is_and_says_so(control):
    facts = control.sandbox.facts
    assert (facts.mechanism, facts.version, facts.network) == ("none", None, "open")
    command = control.sandbox.contain(["prog", "x"], [control.tree], control.tree, {"A": "1"})
    assert command == (["prog", "x"], control.tree.host, {"A": "1"})
    assert control.sandbox.path(control.tree) == str(control.tree.host)


@pytest.mark.parametrize("kind", ["auto", "bubblewrap"])
def test_auto_and_bubblewrap_give_bubblewrap_and_say_so(kind):
    policy = SandboxPolicy.model_validate({"kind": kind})
    facts = open_sandbox(policy, open_environment(EnvironmentSpec())).facts
    assert (facts.mechanism, facts.network) == ("bubblewrap", "none")
    assert facts.version[0].isdigit()


OPEN = """
import sys
from isobench_ray.environment import open_environment
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import EnvironmentSpec, SandboxPolicy
from isobench_ray.sandbox import open_sandbox
try:
    print(open_sandbox(SandboxPolicy(kind=sys.argv[1]), open_environment(EnvironmentSpec())).facts)
except FailureRaised as raised:
    print(raised.failure.failure_class, raised.failure.message)
"""


def open_where(*options: str, kind: str = "auto") -> str:
    """What a policy gives on a machine like this one, but for some bubblewrap options."""
    machine = ["bwrap", "--bind", "/", "/", "--dev-bind", "/dev", "/dev", *options]
    argv = [*machine, sys.executable, "-c", OPEN, kind]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_auto_never_gives_none_where_bubblewrap_is_missing():
    absent = ("--ro-bind", "/dev/null", "/usr/bin/bwrap")
    said = open_where(*absent)
    assert said.startswith(
        f"{FailureClass.SANDBOX_UNAVAILABLE} bubblewrap (bwrap) is not installed"
    )
    assert "mechanism='none'" in open_where(*absent, kind="none")  # only by name
    assert "mechanism='bubblewrap'" in open_where()  # positive control


def test_auto_never_gives_none_where_namespaces_are_refused():
    refusing = ("--unshare-user", "--disable-userns")
    said = open_where(*refusing)
    assert said.startswith(f"{FailureClass.SANDBOX_UNAVAILABLE} bubblewrap cannot make its names")
    assert len(said.split("here:")[1].strip()) > 10  # with bubblewrap's own words


def test_a_missing_mount_is_an_error_not_an_empty_folder(inside):
    command = inside.sandbox.contain(
        ["/bin/true"], [Mount(Path("/not/there"), "/x")], inside.tree, {}
    )
    done = subprocess.run(command.argv, env=command.env, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"/not/there" in done.stderr


def test_a_container_is_refused_by_name_in_this_release():
    with pytest.raises(ValueError, match="not in this release"):
        SandboxPolicy.model_validate({"kind": "container"})
