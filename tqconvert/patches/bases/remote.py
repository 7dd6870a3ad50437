"""Tags of a clone's remote. Asks the network; nothing is fetched."""

from collections.abc import Mapping
from pathlib import Path

from tqconvert.errors import NetworkError, NotFoundError
from tqconvert.patches.git import Git

_PATIENCE = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30")


def remote_tags(clone: Path, env: Mapping[str, str]) -> list[str]:
    """Names of the tags that the clone's `origin` has. Raises NotFoundError, NetworkError."""
    git = Git(clone, env)
    url = git.run("remote", "get-url", "origin")
    if url.returncode:
        raise NotFoundError(f"{clone}: has no remote `origin`")
    done = git.run(*_PATIENCE, "ls-remote", "--tags", "--refs", "origin")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        raise NetworkError(f"{url.stdout.decode().strip()}: {said[-1][:300]}")
    rows = done.stdout.decode("utf-8", "replace").splitlines()
    return [row.partition("\t")[2].removeprefix("refs/tags/") for row in rows]
