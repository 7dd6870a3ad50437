"""Pull what a lock file says, or fail: from an entry to a request, and from a result to an entry.

What is known beforehand is compared before a byte of a model is fetched: the program, the source's
digests, what is installed already. The rest is compared before a file gets its name.
"""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tqconvert import __version__
from tqconvert.digest import Digest
from tqconvert.errors import (
    DigestMismatchError,
    LockDiffersError,
    NotFoundError,
    TqError,
    UsageError,
)
from tqconvert.gguf.tags import CacheTypes
from tqconvert.models import looks_like_path
from tqconvert.progress import Progress
from tqconvert.provenance.lockfile import LockedModel, read_lock
from tqconvert.pull.destination import destination_of
from tqconvert.pull.expected import Expected
from tqconvert.pull.job import prepare
from tqconvert.pull.plan import PullPlan, State, plan_pull
from tqconvert.pull.receive import Workplace
from tqconvert.pull.request import PullRequest, Wish
from tqconvert.pull.run import PullResult
from tqconvert.pull.sources import Job
from tqconvert.reference import ModelName
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.ocireference import OciReference, is_oci
from tqconvert.settings import Settings
from tqconvert.store.hashing import hash_file
from tqconvert.store.manifest import SOURCE_KEY

TOOL = f"tqconvert {__version__}"
_NO_PINS = ("hf.co", "huggingface.co")
"""Hosts whose names take no @sha256: they have no manifests of their own."""


def select(
    models: Sequence[LockedModel], text: str | None, as_name: str | None, lock: Path
) -> tuple[LockedModel, ...]:
    """The entries that NAME means, by what was pulled or by the name it got; all for None.

    Raises NotFoundError for a name that the file does not have, UsageError for one that it has twice.
    """
    if text is None:
        if as_name is not None:
            raise UsageError("--as goes with a name", hint="tqconvert pull NAME --locked --as NAME")
        if not models:
            raise NotFoundError(
                f"{lock}: holds no model", hint="tqconvert pull NAME --lock adds one"
            )
        return tuple(models)
    forms = {text, *_forms(text, lock)}
    found = [m for m in models if m.name in forms] or [m for m in models if m.target in forms]
    if as_name is not None:
        wanted = {as_name, *_forms(as_name, lock)}
        found = [m for m in found if m.target in wanted]
    if not found:
        what = f"{text} as {as_name}" if as_name else text
        there = ", ".join(m.name for m in models) or "nothing"
        raise NotFoundError(
            f"{lock}: does not have {what} (locked: {there})",
            hint=f"tqconvert pull {text} --lock adds it",
        )
    _check_pin(found, text, lock)
    if len(found) > 1:
        names = ", ".join(m.target for m in found)
        raise UsageError(f"{text}: is locked as {names}", hint="say which one with --as NAME")
    return tuple(found)


def _check_pin(found: Sequence[LockedModel], text: str, lock: Path) -> None:
    """A digest that the user pinned must be the one that is locked."""
    with suppress(UsageError):
        pinned = ModelName.parse(text).digest
        for entry in found:
            if pinned not in (None, entry.source_manifest):
                raise LockDiffersError(
                    f"{text}: {lock.name} wants {entry.source_manifest}", hint=_renew(entry)
                )


def prepare_all(
    lock: Path, request: PullRequest, settings: Settings, progress: Progress, *, any_tool: bool,
    ask: bool = False,
) -> list[Job]:  # fmt: skip
    """The jobs for the entry that the request's source names, or for all if it is empty.

    All are checked beforehand before the first is carried out. Raises what `read_lock`, `select` and
    `prepare_locked` raise.
    """
    models = read_lock(lock)
    chosen = select(models, request.source or None, request.as_name, lock)
    if request.to and len(chosen) > 1:
        raise UsageError(
            "--to takes one model (a folder has one Modelfile)", hint="name one of them"
        )
    return [
        prepare_locked(entry, lock, request, settings, progress, any_tool=any_tool, ask=ask)
        for entry in chosen
    ]


def prepare_locked(
    entry: LockedModel, lock: Path, request: PullRequest, settings: Settings, progress: Progress,
    *, any_tool: bool = False, ask: bool = False,
) -> Job:  # fmt: skip
    """The job that brings the entry's model, checked as far as it can be beforehand.

    `request` gives what the file does not say: folder, memory, connections. Where the model is
    installed as it is locked nobody is asked, unless `ask`. Raises LockDiffersError, and what `prepare`
    raises.
    """
    installed = _installed(entry, lock, request, settings)
    if installed and not ask:
        place = Workplace(installed.destination.partials, Http(offline=True), progress)
        return Job(request, installed, place, _nowhere)
    other_tool = entry.is_tagged and entry.tool != TOOL
    if other_tool and not any_tool and not installed:
        raise _other_tool(entry)
    wish = Wish(tag=False)
    if entry.is_tagged:
        wish = Wish(True, _given(entry.type_k), _given(entry.type_v))
    request = replace(request, source=_source(entry, lock), as_name=entry.target, wish=wish)
    try:
        job = prepare(request, settings, progress)
    except DigestMismatchError as e:
        raise LockDiffersError(
            f"{e.message}; {lock.name} wants the other", hint=_renew(entry)
        ) from None
    except NotFoundError as e:
        raise NotFoundError(
            f"{e.message} (locked in {lock})", hint=e.hint or _renew(entry)
        ) from None
    _check_source(job, entry, lock)
    if other_tool and any_tool:
        return job
    _check_installed(job, entry, lock)
    return replace(job, expected=Expected(str(lock), entry.result, entry.result_manifest))


def _installed(
    entry: LockedModel, lock: Path, request: PullRequest, settings: Settings
) -> PullPlan | None:
    """The plan to do nothing, where the model is there as it is locked; a file of --to is hashed for it."""
    target = ModelName.parse(entry.target)
    destination = destination_of(request, settings, target)
    differs: Path | None = None
    with suppress(TqError):
        there = destination.store.read_manifest(target)
        if there is None or there.digest != entry.result_manifest:
            return None
        if next((m.digest for m in there.layers_of("model")), None) != entry.result:
            return None
        name = _parsed(entry, lock)
        plan = plan_pull(name, target, there, destination, Wish(tag=False))
        # Blobs of a store have their digest for a name; a file may have been tagged anew, or be damaged.
        file = destination.file
        if file and entry.result and file.is_file() and hash_file(file)[0] != entry.result:
            differs = file
        elif plan.state is State.UNCHANGED:
            return plan
    if differs:
        raise LockDiffersError(
            f"{differs}: is not the file that {lock.name} has",
            hint=f"rm {differs}, then pull it again",
        )
    return None


def _parsed(entry: LockedModel, lock: Path) -> ModelName | Path | OciReference:
    if _is_path(entry.name):
        return Path(_source(entry, lock))
    return OciReference.parse(entry.name) if is_oci(entry.name) else ModelName.parse(entry.name)


def _nowhere(digest: Digest) -> Endpoint:
    raise NotFoundError(f"{digest}: not asked for, it is installed")


def _other_tool(entry: LockedModel) -> LockDiffersError:
    return LockDiffersError(
        f"{entry.target}: locked with {entry.tool}, this is {TOOL}: the tagged file would differ",
        hint="--any-tool holds on to source and tags only; or lock it anew: "
        f"tqconvert install --remove {entry.target}, then {_pull_again(entry)}",
    )


def require_lockable(job: Job, lock: Path) -> None:
    """Raise UsageError for a file whose name is no text, before it is pulled."""
    name = _name_of(job.plan.name, lock)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: its name is no UTF-8, which a lock file must be") from None


def entry_of(result: PullResult, lock: Path) -> LockedModel:
    """The entry of a model that was pulled."""
    plan = result.plan
    models = result.manifest.layers_of("model")[:1]
    source = plan.main.digest if plan.main else None
    made = models[0].digest if models else None
    # A model may come tagged, with the annotation of whoever tagged it.
    tagged_here = made != source and any(SOURCE_KEY in layer.annotations for layer in models)
    tags = result.tags if tagged_here else None
    return LockedModel(
        target=str(plan.target),
        name=_name_of(plan.name, lock),
        source_manifest=plan.manifest.digest,
        result_manifest=result.manifest.digest,
        tool=tags.tool if tags else TOOL,
        source=source,
        result=made,
        size=models[0].size if models else 0,
        type_k=tags.type_k if tags else None,
        type_v=tags.type_v if tags else None,
        revision=plan.origin.revision if plan.origin else None,
    )


def _check_source(job: Job, entry: LockedModel, lock: Path) -> None:
    main = job.plan.main
    have = main.digest if main else None
    if have != entry.source:
        raise LockDiffersError(
            f"{entry.name}: is {have or 'no GGUF'} now ({lock.name} wants {entry.source or 'none'})",
            hint=_renew(entry),
        )


def _check_installed(job: Job, entry: LockedModel, lock: Path) -> None:
    """What is there under the name, where nothing would be done about it, must be what is locked."""
    plan = job.plan
    if plan.state is not State.UNCHANGED:
        return
    there = plan.destination.store.require_manifest(plan.target)
    model = next((m.digest for m in there.layers_of("model")), None)
    if there.digest == entry.result_manifest and model != entry.result:
        raise LockDiffersError(
            f"{plan.target}: its model here is {model} ({lock.name} wants {entry.result})",
            hint=_renew(entry),
        )
    if there.digest != entry.result_manifest:
        raise LockDiffersError(
            f"{plan.target}: its manifest here is {there.digest} ({lock.name} wants {entry.result_manifest})",
            hint=f"tqconvert install --remove {plan.target}, then pull it again"
            if plan.destination.file is None
            else f"remove {plan.destination.file}, then pull it again",
        )


def _source(entry: LockedModel, lock: Path) -> str:
    """What to pull: the locked manifest by its digest, or of Hugging Face the locked commit."""
    if _is_path(entry.name):
        return str(lock.absolute().parent / entry.name)
    if is_oci(entry.name):
        pinned = "@" in entry.name or not entry.revision
        return entry.name if pinned else f"{entry.name}@{entry.revision}"
    try:
        name = ModelName.parse(entry.name)
    except TqError:
        return entry.name
    if name.host in _NO_PINS:
        return f"{entry.name}@{entry.revision}" if entry.revision else entry.name
    return f"{entry.name}@{entry.source_manifest}"


def _is_path(name: str) -> bool:
    return name.startswith((".", "/")) or Path(name).is_absolute()


def _name_of(name: object, lock: Path) -> str:
    """What was pulled, so that it can be pulled again from the lock file's folder."""
    if isinstance(name, Path):
        return _relative(name, lock)
    if isinstance(name, ModelName):
        return f"{name.scheme}://{name.short}" if name.scheme else name.short
    return str(name)


def _relative(path: Path, lock: Path) -> str:
    """The path as the lock file has it: an absolute one stays, others go from the file's folder."""
    if path.is_absolute():
        return path.as_posix()
    text = Path(os.path.relpath(path.absolute(), lock.absolute().parent)).as_posix()
    return text if text.startswith(".") else f"./{text}"


def _forms(text: str, lock: Path) -> set[str]:
    """How the lock file may have written what the user typed."""
    found = set()
    if looks_like_path(text):
        found.add(_relative(Path(text).expanduser(), lock))
    with suppress(TqError):
        found.add(
            str(OciReference.parse(text)) if is_oci(text) else _name_of(ModelName.parse(text), lock)
        )
    return found


def _given(types: CacheTypes | None) -> str | None:
    """Types as a user writes them."""
    return types if types is None or isinstance(types, str) else ",".join(types)


def _renew(entry: LockedModel) -> str:
    return f"{_pull_again(entry)} takes what is there now"


def _pull_again(entry: LockedModel) -> str:
    return f"tqconvert pull {shlex.quote(entry.name)} --as {entry.target} --lock"
