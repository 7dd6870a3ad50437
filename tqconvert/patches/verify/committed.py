"""What git has committed of a tree, compared with its release: L0 of `verify`. It reads ids, no file."""

from collections.abc import Mapping

from tqconvert.errors import GitFailedError, ToolMissingError
from tqconvert.patches.change.chain import Chain, read_chain
from tqconvert.patches.change.repository import Repository, find_repository
from tqconvert.patches.checkout import SYNC, VERSION, Generation
from tqconvert.patches.locks.origin import FOLDERS
from tqconvert.patches.locks.release import ReleaseLock
from tqconvert.patches.objects import blob_id
from tqconvert.patches.queue import Step
from tqconvert.patches.tree.state import TextReader, TreeState
from tqconvert.patches.verify.check import Check, check, counted, skipped


def check_commits(state: TreeState, env: Mapping[str, str]) -> Check:
    """L0: the trees of the commit below our patches, our commits, and what is changed on top."""
    checkout = state.queue.checkout
    lock = state.source.lock if state.source else None
    if checkout.generation is Generation.LLAMA_CPP:
        return skipped("L0", "a llama.cpp tree: its commit says nothing of its patches")
    if lock is None:
        return skipped("L0", "needs the lock of the release")
    try:
        repo = find_repository(checkout.root, env)
        if repo is None:
            return skipped("L0", "not a git checkout")
        return _check(state, lock, repo)
    except ToolMissingError as e:
        return skipped("L0", e.message)


def _check(state: TreeState, lock: ReleaseLock, repo: Repository) -> Check:
    chain = read_chain(repo, "HEAD")
    folders = FOLDERS[lock.generation]
    try:
        ids = repo.git.text_of("rev-parse", *(f"{chain.base}:{f}" for f in folders)).splitlines()
    except GitFailedError as e:
        return Check("L0", False, findings=(f"HEAD lacks {', '.join(folders)} ({e.message})",))
    trees = dict(zip(folders, ids, strict=True))
    findings = []
    matching = [g for g in lock.releases if dict(g.trees) == trees]
    if not matching:
        known = {f: {g.trees[f] for g in lock.releases} for f in folders}
        findings += [
            f"{f} is {trees[f][:12]} in the commit (expected {' or '.join(sorted(str(i)[:12] for i in known[f]))})"
            for f in folders
            if trees[f] not in known[f]
        ]
    findings += _other_bytes(chain, state.queue.ours)
    named = VERSION if lock.generation is Generation.MODERN else SYNC
    changed, explained = _changed(state, repo, (*folders, named))
    findings += [f"{p} is not as it was committed" for p in changed]
    covered = f"ids of {counted(len(folders), 'folder')}"
    if chain.links:
        covered += f" below {counted(len(chain.links), 'commit')} of ours, with their sha256"
    if explained:
        covered += f"; {explained} changed as our patches do"
    above = (
        f"{counted(len(chain.on_top), 'commit')} on top of HEAD's release"
        if chain.on_top and chain.links
        else ""
    )
    return check("L0", covered, findings, above)


def _other_bytes(chain: Chain, ours: tuple[Step, ...]) -> list[str]:
    """Commits of patches that this installation has with other bytes, or not at all."""
    by_digest = {p.sha256 for s in ours for p in s.alternatives}
    return [
        f"{link.name} ({link.commit[:9]}) was applied with other bytes than this installation's"
        for link in chain.links
        if link.sha256 not in by_digest
    ]


def _changed(state: TreeState, repo: Repository, folders: tuple[str, ...]) -> tuple[list[str], int]:
    """Files in these folders that differ from HEAD, and how many differ as our patches make them."""
    out = repo.git.text_of(
        "status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames", "--", *folders
    )
    layout = state.queue.checkout.layout
    ours = {
        diff.path
        for step, found in zip(state.queue.ours, state.ours, strict=True)
        if found.applied is not False
        for patch in step.alternatives
        for diff in step.located(patch, layout).diffs
    }
    read = TextReader(state.queue.checkout.root)
    changed, explained = [], 0
    for row in filter(None, out.split("\0")):
        if row.startswith("? "):
            path, old = row[2:], ""
        elif row.startswith("1 "):
            parts = row.split(" ", 8)
            path, old = parts[8], parts[6]
        else:
            path, old = row.split(" ", 10)[-1], ""
        if path in ours:
            explained += 1
        elif blob_id(read(path)) != old:
            changed.append(path)
    return changed, explained
