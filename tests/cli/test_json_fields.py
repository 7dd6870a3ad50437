"""The fields that docs/patch-queue.md promises of each `ollama-build` command are those that it prints."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patches.releases import git, make_legacy, make_ours

Cli = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parents[2] / "docs" / "patch-queue.md"


def promised() -> dict[str, set[str]]:
    """Command -> its fields, from the table of the page."""
    text = PAGE.read_text("utf-8").partition("## JSON")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z, -]+) \| (.+) \|$", text, re.MULTILINE)
    found: dict[str, set[str]] = {}
    for commands, fields in rows:
        top = re.sub(r"\{[^}]*\}", "", fields.replace("}]", "}"))
        for command in commands.split(", "):
            found.setdefault(command, set()).update(re.findall(r"`(\w+)`", top))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release and patches of ours."""
    folder = tmp_path_factory.mktemp("json")
    make_legacy(folder / "release")
    make_ours(folder / "ours")
    return folder


def test_every_command_prints_the_fields_of_the_page(folder: Path, run_cli: Cli) -> None:
    """One after the other on one tree, from list to abort; none more, none less."""
    tree, ours, llama = folder / "release/ollama", folder / "ours", folder / "release/llama.cpp"
    queue = ("--patches", ours)
    ran: dict[str, set[str]] = {}

    def run(command: str, *args: object) -> None:
        code, out, err = run_cli("ollama-build", command, *args, "--json")
        assert code in (0, 1, 3, 5), (command, out, err)
        ran[command] = set(json.loads(out)) - {"schema"}
        assert json.loads(out)["schema"] == f"tqconvert.ollama-build.{command}/1"

    for command in ("list", "status", "verify"):
        run(command, tree, *queue)
    run("lock", tree)
    run("lint", ours)
    run("watch", tree, "--since", "v0.99.0", *queue)
    run("bisect-base", "master..master", "--git", llama, "--tree", tree, *queue)
    run("apply", tree, *queue)
    run("export", tree, *queue)
    run("edit", "ids", "--tree", tree)
    run("abort", tree)
    path = tree / "llm/server.go"
    path.write_bytes(path.read_bytes().replace(b"int server_40(void);", b"int mine(void);"))
    run("refresh", "server", "--tree", tree, *queue)
    old = path.read_bytes()
    path.write_bytes(old.replace(b"int server_50(void);", b"int fifty(void);"))
    (folder / "x.patch").write_text(git(tree, "diff") + "\n")
    path.write_bytes(old)
    run("import", folder / "x.patch", "--tree", tree, "--why", "the test", *queue)
    run("apply", tree, *queue)
    run("rebase", tree, "--onto", "v0.99.0", "-n", *queue)
    run("unapply", tree)
    found = promised()
    assert {c: ran[c] for c in ran} == {c: found.get(c, set()) for c in ran}


def test_the_table_knows_every_command() -> None:
    """Those that the test above does not run have fields too."""
    from tqconvert.cli.ollama_build import build, change, check, edit, rebase, show

    names = {
        c.__name__.removesuffix("_").replace("_", "-")
        for module in (show, change, edit, rebase, check, build)
        for c in module.COMMANDS
    }
    assert names <= promised().keys()
