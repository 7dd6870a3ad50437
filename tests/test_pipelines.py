"""docs/pipelines.md: every command on the page is run, against a registry on loopback."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builders import LLAMA, gguf_bytes, tiny_gguf
from fakeregistry import FakeRegistry

from tqconvert.gguf.fingerprint import fingerprint_of
from tqconvert.provenance.lockfile import read_lock

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 60)})
OTHER = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 60)}, fill=9)


def blocks(language: str) -> list[str]:
    """Code blocks of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def steps(workflow: str) -> list[str]:
    """Scripts of a workflow in their order; steps that use an action are GitHub's."""
    jobs = yaml.safe_load(workflow)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


class Project:
    """A git repository with `tqconvert` on the PATH; `pip` only says what it was asked for."""

    def __init__(self, folder: Path, model: str) -> None:
        programs = folder / "bin"
        programs.mkdir()
        self.folder = folder / "project"
        self.folder.mkdir()
        self._program(programs / "tqconvert", f'exec "{sys.executable}" -m tqconvert "$@"')
        self._program(programs / "pip", 'echo "pip $*" >> "$PIP_LOG"')
        self.env = {
            **os.environ, "MODEL": model, "OLLAMA_MODELS": str(self.folder / "models"),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PIP_LOG": str(folder / "pip.log"),
            "PYTHONPATH": str(ROOT), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
        }  # fmt: skip
        self.run("git init -q && printf 'models\\n*.stamp\\n' > .gitignore")

    @staticmethod
    def _program(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, script: str) -> str:
        """What the script prints, as GitHub runs it (`bash -e -o pipefail`); must end with 0."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=self.folder, env=self.env,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with one tiny model."""
    with FakeRegistry(MODEL) as r:
        yield r


@pytest.fixture
def project(tmp_path: Path, registry: FakeRegistry) -> Project:
    """A project whose model is locked, by the page's first commands."""
    made = Project(tmp_path, registry.name)
    made.run(blocks("sh")[0])
    return made


def test_no_block_is_left_out() -> None:
    """Every block of the page has a test here; each workflow runs something."""
    languages = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    assert sorted(languages) == ["make", "python", "sh", "sh", "sh", "toml", "yaml", "yaml"]
    assert all(len(steps(text)) >= 3 for text in blocks("yaml"))


@pytest.mark.slow
def test_the_first_workflow(project: Project, registry: FakeRegistry) -> None:
    """Models, statement and BOM are there; with the cache of the first run the second fetches nothing."""
    for script in steps(blocks("yaml")[0]):
        project.run(script)
    assert (project.folder / "provenance.json").exists()
    assert (project.folder / "bom.json").exists()
    registry.requests.clear()
    printed = [project.run(script) for script in steps(blocks("yaml")[0])]
    assert registry.asked("blobs") == []
    assert "sound" in "".join(printed)
    assert Path(project.env["PIP_LOG"]).read_text() == "pip install tqconvert\n" * 2


@pytest.mark.slow
def test_the_workflow_that_renews(project: Project, registry: FakeRegistry) -> None:
    """Nothing to say while the model is the same; a moved one is a change of the lock file."""
    scripts = steps(blocks("yaml")[1])
    assert "moved" not in "".join(project.run(script) for script in scripts)
    registry.move(OTHER)
    assert "the model has moved" in "".join(project.run(script) for script in scripts)
    project.run("git commit -qam renewed")
    for script in steps(blocks("yaml")[0])[1:]:
        project.run(script)


@pytest.mark.slow
def test_the_makefile(project: Project, registry: FakeRegistry) -> None:
    """`make check` brings and verifies; again is up to date; without a lock file one is made."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    (project.folder / "Makefile").write_text(blocks("make")[0])
    assert "sound" in project.run("make check")
    assert "up to date" in project.run("make models.stamp")
    registry.move(OTHER)
    project.run("make renew")
    assert "--locked" in project.run("make models.stamp")
    project.run("git rm -q --cached tqconvert.lock && rm tqconvert.lock && make check")
    assert (project.folder / "tqconvert.lock").exists()


def test_documents_and_fingerprint(project: Project) -> None:
    """The other shell blocks, one after the other."""
    for script in blocks("sh")[1:]:
        project.run(script)
    assert (project.folder / "weights.sha256").read_text().startswith("sha256:")


def test_the_second_implementation(tmp_path: Path) -> None:
    """The page's program and ours agree on plain and on sharded models of several shapes."""
    program = tmp_path / "fingerprint.py"
    program.write_text(blocks("python")[0])
    tensors = {"é.weight": (32, 2), "b": (1,), "a": (4, 1, 3), "a.b": (7, 5, 1)}
    paths = [tiny_gguf(tmp_path / "m.gguf", tensors=tensors)]
    for chosen in (paths, [*paths, tiny_gguf(tmp_path / "n.gguf", tensors={"c": (3, 3)})]):
        done = subprocess.run(
            [sys.executable, program, *chosen], capture_output=True, text=True, check=True
        )
        from tqconvert.gguf.fingerprint import fingerprint_files

        assert done.stdout.strip() == str(fingerprint_files(chosen).digest)
    assert fingerprint_of(paths[0]) == fingerprint_files(paths)


def test_the_lock_file_of_the_page(tmp_path: Path, project: Project) -> None:
    """It is one that is read, and has the fields of one that is written; the table explains each."""
    (tmp_path / "page.lock").write_text(blocks("toml")[0])
    [entry] = read_lock(tmp_path / "page.lock")
    assert entry.target == "gemma3:270m-tq"
    real = tomllib.loads((project.folder / "tqconvert.lock").read_text())
    fields = list(tomllib.loads(blocks("toml")[0])["model"][0])
    assert fields == list(real["model"][0])
    table = PAGE.partition("| field | meaning |")[2].partition("\n\n")[0]
    assert [f for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for f in re.findall(r"`(\w+)`", row)] == [
        "target", "name", "revision", "source", "source_manifest", "result", "result_manifest", "bytes", "type_k", "type_v",
        "tool",
    ]  # fmt: skip
