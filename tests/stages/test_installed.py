"""The environment must not hold a later build of what is to be improved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isobench_ray.agents import AgentInput
from isobench_ray.errors import FailureRaised
from isobench_ray.experiment import EnvironmentSpec, Limits, SandboxPolicy
from isobench_ray.failure import FailureClass
from isobench_ray.stages.installed import (
    InstalledCopy,
    installed_copies,
    other_build,
    package_roots,
    refuse_other_builds,
)
from isobench_ray.stages.node import Node, open_node
from isobench_ray.stages.solve import SolveWork, solve
from isobench_ray.task import TaskFiles
from isobench_ray.trial import Trial
from tests.fixtures_git import (
    Baked,
    Files,
    History,
    bake,
    make_history,
    make_task,
    require_bubblewrap,
    write_all,
)

BASE: Files = {
    "engine/__init__.py": "",
    "engine/core.py": "slow = True\n",
    "engine/deep/kernel.py": "k = 1\n",
    "engine/data.json": "{}",
    "tests/__init__.py": "",
    "tests/test_core.py": "assert True\n",
    "setup.py": "",
    ".gitignore": "[z-a]\n/engine/gen/\n",
}
HUMAN: Files = {"engine/core.py": "slow = False\n"}
INSTALLED: Files = {name: text for name, text in BASE.items() if name.startswith("engine/")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[History, Baked]:
    folder = tmp_path_factory.mktemp("installed")
    history = make_history(folder / "origin", BASE, HUMAN)
    return history, bake(history, folder / "cache")


def make_environment(
    folder: Path, files: Files, version: str = "1.0", direct: str = "", url: str = ""
) -> str:
    """A virtual environment in which files were installed as the distribution `engine`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    metadata: dict[str, str | bytes | None] = {
        f"engine-{version}.dist-info/METADATA": (
            f"Name: engine\nVersion: {version}\n" + (f"Project-URL: Code, {url}\n" if url else "")
        ),
        f"engine-{version}.dist-info/RECORD": "".join(f"{name},,\n" for name in files),
    }
    if direct:
        metadata[f"engine-{version}.dist-info/direct_url.json"] = direct
    write_all(site, {**files, **metadata})
    return str(folder / "bin" / "python")


def node_of(folder: Path, python: str, sandbox: str = "none") -> Node:
    policy = SandboxPolicy.model_validate({"kind": sandbox})
    spec = EnvironmentSpec(python=python)
    return open_node(spec, policy, Limits(), folder / "node")


def refusal(node: Node, made: tuple[History, Baked]) -> str | None:
    try:
        refuse_other_builds(node, made[1].base, make_task(made[0]))
    except FailureRaised as raised:
        if raised.failure.failure_class is not FailureClass.OTHER_BUILD_INSTALLED:
            raise
        return raised.failure.message
    return None


@pytest.mark.parametrize("sandbox", ["none", "auto"])
def test_the_humans_version_in_the_environment_is_refused_with_the_file(tmp_path, made, sandbox):
    if sandbox == "auto":
        require_bubblewrap()
    python = make_environment(tmp_path / "venv", {**INSTALLED, **HUMAN}, "1.1")
    message = refusal(node_of(tmp_path, python, sandbox), made)
    assert message is not None
    assert "engine 1.1" in message
    assert "1 files differ (engine/core.py)" in message


def test_the_bases_own_build_is_fine_with_generated_files_besides(tmp_path, made):
    files = {**INSTALLED, "engine/_version.py": "v = 1\n", "engine/gen/k.py": "k = 1\n"}
    node = node_of(tmp_path, make_environment(tmp_path / "venv", files))
    (copy,) = installed_copies(node, made[1].base, make_task(made[0]))
    assert (copy.name, refusal(node, made)) == ("engine", None)


def test_without_an_installed_copy_there_is_nothing_to_refuse(tmp_path, made):
    node = node_of(tmp_path, make_environment(tmp_path / "venv", {}))
    assert installed_copies(node, made[1].base, make_task(made[0])) == []
    assert refusal(node, made) is None


@pytest.mark.parametrize("how", ["direct_url", "version"])
def test_an_equal_copy_that_says_it_was_built_from_another_commit_is_refused(tmp_path, made, how):
    human = made[0].human
    direct = f'{{"url": "x", "vcs_info": {{"vcs": "git", "commit_id": "{human}"}}}}'
    version = "1.1" if how == "direct_url" else f"1.1.dev3+g{human[:9]}"
    source = direct if how == "direct_url" else ""
    python = make_environment(tmp_path / "venv", INSTALLED, version, source)
    message = refusal(node_of(tmp_path, python), made)
    assert message is not None
    assert f"was built from {human[:9]}" in message


def test_an_equal_copy_that_says_it_was_built_from_the_base_is_fine(tmp_path, made):
    version = f"1.1.dev3+g{made[0].base[:9]}.d20260101"
    python = make_environment(tmp_path / "venv", INSTALLED, version)
    assert refusal(node_of(tmp_path, python), made) is None


def test_a_much_later_build_with_many_more_files_is_refused(tmp_path, made):
    """The later, the more there is that the base has not: no share of it may decide."""
    more: Files = {f"engine/later/n{number}.py": "x = 1\n" for number in range(50)}
    changed: Files = {name: f"{text}# later\n" for name, text in INSTALLED.items()}
    python = make_environment(tmp_path / "venv", {**changed, **more}, "9.0")
    message = refusal(node_of(tmp_path, python), made)
    assert message is not None
    assert "4 files differ (engine/__init__.py, engine/core.py, engine/data.json, …)" in message
    assert "50 files are not in it" in message


@pytest.mark.parametrize("name", ["engine/fast_path.py", "engine/data.json"])
def test_a_new_source_or_another_table_alone_is_refused(tmp_path, made, name):
    python = make_environment(tmp_path / "venv", {**INSTALLED, name: "tuned = 1\n"})
    assert name in (refusal(node_of(tmp_path, python), made) or "")


def test_a_package_of_another_name_is_found_by_its_repository(tmp_path, made):
    files: Files = {"motor/__init__.py": "", "motor/core.py": "slow = False\n"}
    renamed = make_environment(tmp_path / "venv", files, url="https://example.invalid/tiny")
    assert "motor/core.py" in (refusal(node_of(tmp_path, renamed), made) or "")
    foreign = make_environment(tmp_path / "other", files, url="https://example.invalid/else")
    (tmp_path / "foreign").mkdir()
    assert refusal(node_of(tmp_path / "foreign", foreign), made) is None  # the control


def test_folders_of_packages_beside_the_import_path_are_looked_through(tmp_path, made):
    """As in a conda installation, whose other environments an agent can read."""
    python = make_environment(tmp_path / "venv", {})
    site = tmp_path / "venv" / "envs" / "later" / "lib" / "python3.12" / "site-packages"
    write_all(site, {**INSTALLED, **HUMAN})
    assert str(site) in (refusal(node_of(tmp_path, python), made) or "")


def test_a_build_of_the_workspace_itself_is_fine(tmp_path, made):
    version = f"1.1.dev0+g{made[1].base.commit[:9]}"
    python = make_environment(tmp_path / "venv", INSTALLED, version)
    assert refusal(node_of(tmp_path, python), made) is None


def test_a_package_that_merely_has_the_name_is_no_copy(tmp_path, made):
    files: Files = {"tests/__init__.py": "x = 1\n", "tests/test_core.py": "", "tests/more.py": ""}
    files |= {"engine/__init__.py": "another engine\n", "engine/piston.py": "p = 1\n"}
    node = node_of(tmp_path, make_environment(tmp_path / "venv", files))
    found = installed_copies(node, made[1].base, make_task(made[0]))
    assert [copy.name for copy in found] == ["engine"]
    assert refusal(node, made) is None


def test_an_editable_install_counts_where_the_agent_can_see_it(tmp_path, made):
    require_bubblewrap()
    python = make_environment(tmp_path / "venv", {})
    write_all(tmp_path / "checkout", {**INSTALLED, **HUMAN})
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "engine.pth").write_text(f"{tmp_path / 'checkout'}\n")
    assert refusal(node_of(tmp_path, python, "none"), made) is not None
    assert refusal(node_of(tmp_path, python, "auto"), made) is None  # not mounted: out of reach


def test_a_trial_does_not_start_where_the_humans_version_is_installed(tmp_path, made):
    history, baked = made
    python = make_environment(tmp_path / "venv", {**INSTALLED, **HUMAN})
    agent = AgentInput({}, {"steps.json": b'[{"run": "touch started"}]'}, None)
    work = SolveWork(
        trial=Trial(task_id="tiny", agent="robot", attempt=1),
        task=make_task(history),
        task_files=TaskFiles(),
        agent_kind="scripted",
        agent=agent,
        prompt="",
        agent_wall_s=30,
        concurrency=1,
    )
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(FailureRaised, match="not the build of base_commit"):
        solve(work, baked.base, 1, node_of(tmp_path, python), tmp_path / "artifacts")
    assert not (tmp_path / "artifacts" / "stdout.log").exists()


def test_the_environment_is_asked_once_for_a_base(tmp_path, made):
    python = make_environment(tmp_path / "venv", INSTALLED)
    node = node_of(tmp_path, python)
    assert refusal(node, made) is None
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    write_all(site, HUMAN)
    assert refusal(node, made) is None
    assert refusal(node_of(tmp_path, python), made) is not None


def entries_of(tmp_path: Path, files: Files) -> Baked:
    return bake(make_history(tmp_path / "o", files, {"human": "x"}), tmp_path / "c")


@pytest.mark.parametrize(
    ("files", "roots"),
    [
        ({"vllm/__init__.py": "", "vllm/a/__init__.py": "", "setup.py": ""}, {("", "vllm")}),
        (
            {
                "python/sglang/__init__.py": "",
                "sgl-kernel/python/sgl_kernel/__init__.py": "",
                "docs/conf.py": "",
            },
            {("python/", "sglang"), ("sgl-kernel/python/", "sgl_kernel")},
        ),
        ({"src/packaging/__init__.py": "", "noxfile.py": ""}, {("src/", "packaging")}),
        ({"six.py": "", "tests/__init__.py": "", "types.py": ""}, {("", "six")}),
        ({"a-b/__init__.py": "", "c/d/e.py": "", "examples/x/__init__.py": ""}, set()),
        ({"README.md": ""}, set()),
    ],
)
def test_what_an_installation_would_make_importable(tmp_path, files, roots):
    assert package_roots(entries_of(tmp_path, {**files, "x": "x"}).base.entries) == roots


def test_a_single_module_is_compared_too(tmp_path):
    baked = entries_of(tmp_path, {"six.py": "a = 1\n"})
    same = next(entry.oid for entry in baked.base.entries if entry.path == b"six.py")
    copy = InstalledCopy("six", "/x/six.py", None, None, {"six.py": same})
    assert other_build(copy, baked.base, "0" * 40) is None
    later = copy._replace(files={"six.py": "1" * 40})
    assert "six (unknown version)" in (other_build(later, baked.base, "0" * 40) or "")
