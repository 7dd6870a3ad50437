"""The second half of a rebase: what the user resolved becomes patches; or it is given up."""

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import ConflictError, RefusedError, UsageError
from tqconvert.patches.change.am import AM_SETTINGS, IDENTITY_ENV, am_state, range_diff
from tqconvert.patches.change.apply_queue import applied_ref
from tqconvert.patches.change.chain import TRAILER, Chain, read_chain
from tqconvert.patches.change.export import edited_members, whole_edit
from tqconvert.patches.change.move import drop_fresh, recover
from tqconvert.patches.change.operation import REFS, Operation, State
from tqconvert.patches.change.refresh import settle
from tqconvert.patches.change.repository import Blobs, Repository, find_repository
from tqconvert.patches.change.restack import Member, Restacked, files_to_write, members_of, restack
from tqconvert.patches.change.stack import look
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.queue import Origin, Queue, read_queue
from tqconvert.patches.series import parse_series


class Ended(NamedTuple):
    """Where a rebase is after `continue` or `skip`."""

    folder: Path
    branch: str
    head: str | None
    """The last commit on the new base; None while it waits."""
    waiting: str | None
    """Subject of the patch that conflicts."""
    files: tuple[Path, ...]
    """Files of `ollama_patches` that were written."""
    dropped: Mapping[str, str]
    """Patches that were skipped, and why."""
    range_diff: tuple[str, ...]


def go_on(repo: Repository, env: Mapping[str, str]) -> Ended:
    """Go on after the user resolved a conflict, up to the next or to the end.

    Raises RefusedError if no rebase waits, ConflictError if something is unresolved.
    """
    main, state = main_of(repo, env)
    with state.locked():
        recover(main, state)
        op = _waiting(state)
        tree = _tree(op, env)
        work = tree.work()
        if work.unmerged:
            raise ConflictError(
                f"{', '.join(work.unmerged[:5])}: unresolved in {tree.root}",
                hint="edit them, git add them, then: tqconvert ollama-build continue",
            )
        if work.changed:
            raise RefusedError(
                f"{', '.join(work.changed[:5])}: changed and not added",
                hint="git add, then continue",
            )
        if (tree.git_dir / "rebase-apply").is_dir():
            return _am(main, state, op, tree, "--continue", env)
        return finish(main, state, op, env)


def skip(repo: Repository, env: Mapping[str, str], reason: str) -> Ended:
    """Leave the patch out that conflicts, and record why. Raises UsageError without a reason."""
    if not reason.strip():
        raise UsageError("--reason: empty (expected why the patch is left out)")
    main, state = main_of(repo, env)
    with state.locked():
        recover(main, state)
        op = _waiting(state)
        tree = _tree(op, env)
        name = _current(tree)
        if name is None:
            raise RefusedError(
                f"{tree.root}: no patch waits", hint="tqconvert ollama-build continue"
            )
        dropped = {**op.more["dropped"], name: reason.strip()}
        op = op._replace(more={**op.more, "dropped": dropped})
        state.begin(op)
        return _am(main, state, op, tree, "--skip", env)


def finish(main: Repository, state: State, op: Operation, env: Mapping[str, str]) -> Ended:
    """Write what was resolved as patches and as a chain of ours; end the rebase."""
    tree = _tree(op, env)
    folder = Path(op.more["patches"])
    with Blobs(tree.git) as blobs:
        now = look(tree, blobs)
        if now.chain.on_top or now.chain.base != op.more["onto"]:
            what = now.chain.on_top[0][1] if now.chain.on_top else "patches without a trailer"
            raise RefusedError(
                f"{tree.root}: {what}: not one of the patches that were brought here",
                hint=f"each commit ends in a line {TRAILER}: NAME sha256:...; squash what is none",
            )
        queue = _queue(op, tree)
        members = members_of(now.chain, queue)
        edited = edited_members(tree, blobs, now, members, queue, theirs=True)
        edits = [
            whole_edit(tree, members, n)._replace(name=_new_name(members[n], op, folder))
            for n in edited
        ]
        done = restack(tree, now.tree, now.files, members, edits, queue)
        files = _as_alternatives(files_to_write(folder, queue, members, done), members, done)
        own = State(tree)
        record = applied_ref(str(op.more["branch"]))
        outer = op if own.op_path == state.op_path else None
        head = settle(tree, own, blobs, now, record, done, files, "rebase", outer=outer)
    old = Chain((), str(op.more["old_base"]), ())
    rows = _range_rows(tree, old, str(op.more["old_top"]), str(op.more["onto"]), head.oid)
    _clean(main, op)
    state.end(op, dropped=op.more["dropped"], base=op.more["onto"])
    return Ended(tree.root, head.name, head.oid, None, tuple(files), dict(op.more["dropped"]), rows)


def give_up(main: Repository, state: State, op: Operation, env: Mapping[str, str]) -> str | None:
    """Put everything back as it was before the rebase; the ref that holds what the user had done."""
    folder = Path(op.more["folder"])
    here = folder == main.root
    backup = None
    tree = main if here else _find(folder, env)
    if tree is not None:
        backup = _save(tree, op)
        shutil.rmtree(tree.git_dir / "rebase-apply", ignore_errors=True)
    if here:
        main.point_head(op.before, "abort")
        main.git.bytes_of("reset", "--hard", "--quiet")
    elif folder.is_dir():
        main.git.run("worktree", "remove", "--force", "--force", str(folder))
        if tree is not None:
            shutil.rmtree(folder, ignore_errors=True)
    main.git.run("worktree", "prune")
    branch = str(op.more["branch"])
    tip = main.branch_at(branch)
    if tip:
        main.update_refs({branch: (None, tip)}, "abort")
    drop_fresh(main)
    state.end(op, recovered="given up")
    return backup


def _am(
    main: Repository, state: State, op: Operation, tree: Repository, how: str,
    env: Mapping[str, str],
) -> Ended:  # fmt: skip
    before = tree.branch_at("HEAD")
    done = tree.git.run(*AM_SETTINGS, "am", how, env=IDENTITY_ENV)
    said = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    if done.returncode and "No changes" in said and tree.branch_at("HEAD") == before:
        raise ConflictError(
            f"{tree.root}: nothing is left of the patch that waits",
            hint="tqconvert ollama-build skip --reason 'why it is not needed'",
        )
    waiting = am_state(tree, done.returncode, done.stderr.decode("utf-8", "replace"))
    if waiting is None:
        return finish(main, state, op, env)
    branch = str(op.more["branch"]).removeprefix("refs/heads/")
    return Ended(tree.root, branch, None, waiting, (), dict(op.more["dropped"]), ())


def main_of(repo: Repository, env: Mapping[str, str]) -> tuple[Repository, State]:
    """The repository in which the rebase was begun: this one, or that which this is a work tree of."""
    state = State(repo)
    if state.op_path.exists() or repo.git_dir == repo.common_dir:
        return repo, state
    main = find_repository(repo.common_dir.parent, env)
    if main is None:
        return repo, state
    op = State(main).pending()
    if op and Path(str(op.more.get("folder", ""))) == repo.root:
        return main, State(main)
    return repo, state


def _waiting(state: State) -> Operation:
    op = state.pending()
    if op is None or op.phase != "rebase":
        raise RefusedError("no rebase waits", hint="tqconvert ollama-build rebase --onto COMMIT")
    return op


def _tree(op: Operation, env: Mapping[str, str]) -> Repository:
    found = _find(Path(op.more["folder"]), env)
    if found is None:
        raise RefusedError(
            f"{op.more['folder']}: the tree of the rebase is gone",
            hint="tqconvert ollama-build abort",
        )
    return found


def _find(folder: Path, env: Mapping[str, str]) -> Repository | None:
    with suppress(Exception):
        return find_repository(folder, env)
    return None


def _queue(op: Operation, tree: Repository) -> Queue:
    ollama = find_checkout(Path(op.more["ollama"])) if op.more["ollama"] else None
    return read_queue(find_checkout(tree.root), Path(op.more["patches"]), ollama=ollama)


def _current(tree: Repository) -> str | None:
    """The name of the patch at which `git am` waits."""
    folder = tree.git_dir / "rebase-apply"
    try:
        number = int((folder / "next").read_text())
        text = (folder / f"{number:04}").read_text("utf-8", "replace")
    except (OSError, ValueError):
        return None
    found = re.search(rf"^{TRAILER}: (\S+) ", text, re.MULTILINE)
    return found[1] if found else None


def _new_name(member: Member, op: Operation, folder: Path) -> str | None:
    """The file of the patch for the new base; the old one stays for the old bases."""
    if member.step.origin is Origin.OLLAMA:
        return None
    base = re.sub(r"[^A-Za-z0-9.]+", "-", str(op.more["name"])).strip("-.")
    base = str(op.more["onto"])[:9] if not base or base == "HEAD" else base[:20]
    stem = member.patch.name.removesuffix(".patch")
    number, name = 1, f"{stem}-{base}.patch"
    while any(folder.rglob(name)):
        number += 1
        name = f"{stem}-{base}-{number}.patch"
    return name


def _as_alternatives(
    files: Mapping[Path, bytes | None], members: Sequence[Member], done: Restacked
) -> dict[Path, bytes | None]:
    """The files, with patches for the new base in front of those that they stand in for."""
    renamed = {members[n].patch.name: done.steps[n].alternatives[0].name for n in done.changed}
    found: dict[Path, bytes | None] = {}
    for path, data in files.items():
        new = renamed.get(path.name)
        if new is None or path.suffix != ".patch":
            found[path] = data
            continue
        found[path.with_name(new)] = data
        series = path.with_name("series")
        text = found.get(series) or series.read_bytes()
        found[series] = _with_alternative(text, path.name, new)
    return found


def _with_alternative(series: bytes, old: str, new: str) -> bytes:
    rows = series.decode("utf-8").splitlines()
    for number, row in enumerate(rows):
        if any(old in entry.alternatives for entry in parse_series(row)):
            rows[number] = f"{new} | {row}"
            break
    return ("\n".join(rows) + "\n").encode()


def _save(tree: Repository, op: Operation) -> str | None:
    """A ref that holds the tree as it is, if anything was done in it."""
    ref = f"{REFS}/backup/{op.id}"
    if tree.branch_at(ref):
        return ref  # by an abort that was interrupted
    index = tree.git_dir / "tqconvert-save"
    env = {"GIT_INDEX_FILE": str(index), **IDENTITY_ENV,
           "GIT_AUTHOR_NAME": "tqconvert", "GIT_AUTHOR_EMAIL": "tqconvert@invalid"}  # fmt: skip
    try:
        head = tree.branch_at("HEAD")
        if head is None:
            return None
        tree.git.bytes_of("read-tree", head, env=env)
        tree.git.bytes_of("add", "--update", ".", env=env)
        made = tree.git.text_of("write-tree", env=env)
        if head == op.after.oid and made == tree.git.text_of("rev-parse", f"{head}^{{tree}}"):
            return None
        commit = tree.git.text_of(
            "commit-tree",
            made,
            "-p",
            head,
            "-m",
            "What was there when a rebase was given up",
            env=env,
        )
        tree.update_refs({ref: (commit, None)}, "abort")
        return ref
    finally:
        index.unlink(missing_ok=True)


def _clean(main: Repository, op: Operation) -> None:
    """Remove the tree of a rebase that has come to its end; its branch stays."""
    folder = Path(op.more["folder"])
    if folder != main.root and folder.is_dir():
        main.git.run("worktree", "remove", str(folder))
    drop_fresh(main)


def _range_rows(tree: Repository, old: Chain, old_top: str, base: str, top: str) -> tuple[str, ...]:
    if old.base == old_top:
        return ()
    return range_diff(tree, read_chain(tree, old_top), base, top)
