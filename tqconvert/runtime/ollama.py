"""The target `ollama`: a tree of either generation, checked, with our patches on it.

The tree must be a release as Ollama publishes it, or one that has our whole queue already: what is
half-way is refused, so that a build is always made of something that can be named.
"""

from collections.abc import Callable
from pathlib import Path

from tqconvert.errors import IntegrityError, NotFoundError, UsageError
from tqconvert.patches.apply import put_on
from tqconvert.patches.checkout import Checkout, Generation, find_checkout
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.git import Git
from tqconvert.patches.queue import FilesStep, Queue, read_queue
from tqconvert.patches.series import NewFile, Patch
from tqconvert.patches.walk import StepFit, reverse_steps
from tqconvert.runtime.embed import C_HEADER
from tqconvert.runtime.gitsource import (
    LLAMA_CPP_URL,
    OLLAMA_URL,
    is_repository,
    is_url,
    open_commit,
    open_url,
)
from tqconvert.runtime.legacy import LEGACY_FLAGS, Legacy
from tqconvert.runtime.modern import Modern, modern_flags
from tqconvert.runtime.recipe import Tree
from tqconvert.runtime.request import Inputs, Request, Variant
from tqconvert.runtime.source import Source, open_source
from tqconvert.runtime.tree import hash_files, is_read, is_read_of_ollama

DEFAULT_TAG = "v0.32.15"
"""Built where neither a source nor a tag is named."""
HOOKS = {
    "src/llama-model-loader.cpp": b"llama_ollama_compat",
    "tools/mtmd/clip.cpp": b"llama_ollama_compat",
}
"""What Ollama's compat patches leave in llama.cpp; without them published models do not load (#16784)."""


def ollama_inputs(request: Request, patches: Path, note: Callable[[str], None]) -> Inputs:
    """The trees of a build of Ollama with everything that goes onto them.

    Raises NotFoundError, IntegrityError, PatchError, NetworkError, UsageError, StorageError.
    """
    source = open_ollama(request, note)
    checkout = find_checkout(source.root)
    if checkout.generation is Generation.MODERN:
        return _modern(request, patches, note, source, checkout)
    if checkout.generation is Generation.LEGACY:
        return _legacy(request, patches, source, checkout)
    raise UsageError(
        f"{request.source}: is llama.cpp (expected Ollama; --target llama.cpp builds it)"
    )


def open_ollama(request: Request, note: Callable[[str], None]) -> Source:
    """The tree that the request names: an address, a revision of a clone, or a folder as it is."""
    text = request.source or OLLAMA_URL
    if is_url(text):
        return open_url(
            text, request.tag or DEFAULT_TAG, request.cache, request.env, is_read_of_ollama,
            offline=request.offline, note=note,
        )  # fmt: skip
    folder = Path(text).expanduser()
    if request.tag and is_repository(folder, request.env):
        return open_commit(folder, request.tag, request.cache, request.env, is_read_of_ollama)
    if not folder.is_dir():
        raise NotFoundError(
            f"{text}: no such folder", hint="give a clone or an unpacked tree of Ollama"
        )
    if request.tag:
        raise UsageError(
            f"--tag {request.tag}: {text} is no repository (a plain tree is built as it is)"
        )
    root = find_checkout(folder).root
    commit = None
    if is_repository(folder, request.env):
        commit = Git(folder, request.env).text_of(
            "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"
        )
    return Source(root, "folder", text, hash_files(root, is_read_of_ollama), commit=commit)


def _release(request: Request) -> str | None:
    """The release that the source is, as far as anybody says."""
    if request.tag:
        return request.tag
    if request.source is None:
        return DEFAULT_TAG
    folder = Path(request.source).expanduser()
    if not is_url(request.source) and is_repository(folder, request.env):
        git = Git(folder, request.env)
        done = git.run("describe", "--tags", "--exact-match", "--match=v*", _below(folder, request))
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace").strip()
    return None


def _below(folder: Path, request: Request) -> str:
    """The commit that `apply` put patches on, HEAD where none are."""
    from tqconvert.patches.change.chain import read_chain
    from tqconvert.patches.change.repository import find_repository

    repo = find_repository(folder, request.env)  # None for a bare one
    done = repo and repo.branch_at("HEAD")
    return read_chain(repo, done).base if repo and done else "HEAD"


def _legacy(request: Request, patches: Path, source: Source, checkout: Checkout) -> Inputs:
    queue = read_queue(checkout, patches)
    files = Files(folder_reader(source.root))
    there = _taken_off(queue, files)
    _require_release(queue, patches, request, whole=bool(there))
    used = _complete(queue, files, there, stock=request.stock)
    _regenerate(files)
    changes = dict(files.changes())
    header = checkout.layout.locate(C_HEADER)
    ours = used[len(queue.upstream) :]
    return Inputs(
        source=source,
        trees=(Tree("src", source, changes, is_read_of_ollama),),
        patches=ours,
        new_files=() if request.stock else _new_files(queue),
        series=_series_id(queue, stock=request.stock),
        flags=(*LEGACY_FLAGS, *request.cmake_args),
        recipe=Legacy(),
        manifest=("src", header) if ours and header else None,
        go="src",
        release=_release(request),
        base=checkout.base,
        upstream=used[: len(queue.upstream)],
    )


def _modern(
    request: Request, patches: Path, note: Callable[[str], None], source: Source, checkout: Checkout
) -> Inputs:  # fmt: skip
    llama = _open_llama_cpp(request, checkout, note)
    if llama.kind != "git":
        note(f"llama.cpp: {llama.name} is taken for {checkout.base}; nothing tells whether it is")
    go_queue = read_queue(checkout, patches)
    queue = read_queue(find_checkout(llama.root), patches, ollama=checkout)
    files, go_files = Files(folder_reader(llama.root)), Files(folder_reader(source.root))
    used = _complete(queue, files, _taken_off(queue, files), stock=request.stock)
    used_go = _complete(go_queue, go_files, _taken_off(go_queue, go_files), stock=request.stock)
    for path, word in HOOKS.items():
        if word not in (files.get(path) or b""):
            raise IntegrityError(
                f"{path}: Ollama's compat hooks are not in it after its patches (expected {word.decode()})",
                hint=f"give the llama.cpp that the release names: --llama-cpp at {checkout.base}",
            )
    native = request.variant is Variant.NATIVE
    return Inputs(
        source=source,
        trees=(
            Tree("ollama", source, go_files.changes(), is_read_of_ollama),
            Tree("llama.cpp", llama, files.changes()),
        ),
        patches=(*used[len(queue.upstream) :], *used_go),
        new_files=() if request.stock else (*_new_files(queue), *_new_files(go_queue)),
        series=_series_id(queue, go_queue, stock=request.stock),
        flags=(*modern_flags(native=native), *request.cmake_args),
        recipe=Modern(),
        manifest=None if request.stock else ("llama.cpp", C_HEADER),
        go="ollama",
        release=_release(request),
        base=checkout.base,
        upstream=used[: len(queue.upstream)],
    )


def _open_llama_cpp(request: Request, checkout: Checkout, note: Callable[[str], None]) -> Source:
    """The llama.cpp that a modern tree names, or the one that the user gives instead.

    Of a clone that knows the tag the tag is taken, whatever is checked out there.
    """
    base = checkout.base or ""
    text = request.llama_cpp or LLAMA_CPP_URL
    if is_url(text):
        return open_url(
            text, base, request.cache, request.env, is_read, offline=request.offline, note=note
        )
    folder = Path(text).expanduser()
    if is_repository(folder, request.env):
        known = Git(folder, request.env).run("rev-parse", "-q", "--verify", f"{base}^{{commit}}")
        if known.returncode == 0 or not (folder / "ggml").is_dir():
            return open_commit(folder, base, request.cache, request.env, is_read)
    return open_source(text, request.cache, request.env, offline=request.offline, note=note)


def _taken_off(queue: Queue, files: Files) -> tuple[StepFit, ...]:
    """All of the queue that is in the tree, in its order: everything, Ollama's own, or nothing.

    It is in the tree if it comes off, one step after the other.
    """
    layout = queue.checkout.layout
    for steps in (queue.steps, queue.upstream):
        taken = reverse_steps(files.copy(), steps, layout)
        if steps and len(taken) == len(steps):
            return tuple(reversed(taken))
    return ()


def _complete(
    queue: Queue, files: Files, there: tuple[StepFit, ...], *, stock: bool
) -> tuple[Patch, ...]:
    """Put on what is missing; the patches that are in afterwards, Ollama's first.

    Raises PatchError, UsageError for a stock build of a tree that has ours.
    """
    if stock and len(there) > len(queue.upstream):
        raise UsageError(
            f"{queue.checkout.root}: holds our patches (expected a tree without for --stock)"
        )
    wanted = queue.upstream if stock else queue.steps
    used = tuple(t.patch for t in there if not isinstance(t.step, FilesStep))
    return used + put_on(files, wanted[len(there) :], queue.checkout.layout)


def _require_release(queue: Queue, patches: Path, request: Request, *, whole: bool) -> None:
    """Raise IntegrityError for a legacy tree that is neither a release nor one with all of the queue.

    `whole`: Ollama's patches are in it, and ours all or none. Of a release that a lock knows every vendored file is compared (L1 to L3 of `verify`).
    """
    from tqconvert.patches.tree.findings import find_problems
    from tqconvert.patches.tree.state import read_state
    from tqconvert.patches.verify.verify import verify

    state = read_state(queue, patches)
    if whole:
        if state.source is None or state.source.lock is None:
            return
        checks = verify(state, patches, request.env, level=3)
        wrong = [
            f for c in checks if c.level in ("L1", "L2", "L3") and c.ok is False for f in c.findings
        ]
        if wrong and not request.allow_edits:
            more = f" (and {len(wrong) - 1} findings more)" if len(wrong) > 1 else ""
            raise IntegrityError(
                f"{queue.checkout.root}: not as released: {wrong[0]}{more}",
                hint="--allow-edits builds it as it is",
            )
        return
    problems = find_problems(state)
    first = problems[0].text if problems else f"{len(queue.upstream)} patches do not come off"
    more = f" (and {len(problems) - 1} findings more)" if len(problems) > 1 else ""
    raise IntegrityError(
        f"{queue.checkout.root}: neither a release nor one with all patches: {first}{more}",
        hint=f"tqconvert ollama-build status {queue.checkout.root}",
    )


def _regenerate(files: Files) -> None:
    """Make the Metal source that Go compiles in anew, where its parts have changed."""
    from tqconvert.patches.embed import TARGET, regenerate

    made = regenerate(files.get)
    if made is not None and made != files.get(TARGET):
        files.put(TARGET, made)


def _new_files(queue: Queue) -> tuple[NewFile, ...]:
    return tuple(f for s in queue.ours if isinstance(s, FilesStep) for f in s.files)


def _series_id(*queues: Queue, stock: bool) -> str:
    import hashlib

    total = hashlib.sha256(b"stock" if stock else b"all")
    for step in (s for q in queues for s in (q.upstream if stock else q.steps)):
        total.update(" | ".join(f"{p.name} {p.sha256}" for p in step.alternatives).encode())
    return total.hexdigest()
