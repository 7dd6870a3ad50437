"""Patches as mails for `git am`, and the chain that gives git both sides of each."""

from tqconvert.patches.change.chain import (
    Chain,
    new_commit,
    plan_commits,
    read_chain,
    write_commits,
)
from tqconvert.patches.change.operation import REFS, new_id
from tqconvert.patches.change.repository import Repository
from tqconvert.patches.checkout import Generation
from tqconvert.patches.files import Files, folder_reader, mapping_reader
from tqconvert.patches.layout import Layout, Plain
from tqconvert.patches.mail import read_mail
from tqconvert.patches.queue import FilesStep, Layer, Queue, Step
from tqconvert.patches.render import split_segments
from tqconvert.patches.series import Patch
from tqconvert.patches.walk import apply_step, reverse_steps

TRAILER = "TQ-Patch"


class _Carried:
    """The files of llama.cpp that an Ollama tree vendors, at llama.cpp's own paths."""

    def __init__(self, vendored: Layout) -> None:
        self._vendored = vendored

    def locate(self, path: str) -> str | None:
        """The path itself, None if it is not vendored."""
        return path if self._vendored.locate(path) else None

    def source(self, path: str) -> str | None:
        """The path itself."""
        return path


def vendored_chain(repo: Repository, queue: Queue) -> Chain | None:
    """The patches on the part of their base that an Ollama tree lets one compute; None without one."""
    source = queue.source
    if source is None or source.generation is not Generation.LEGACY or queue.checkout.is_ollama:
        return None
    files = Files(folder_reader(source.root))
    layout = source.layout
    taken = reverse_steps(files, queue.upstream, layout)
    if len(taken) != len(queue.upstream):
        return None
    paths = sorted({p for t in taken for f in t.files for p in (f.diff.old, f.diff.new) if p})
    steps = [s for s in queue.steps if not isinstance(s, FilesStep)]
    carried = _Carried(layout)
    wanted = {d.path for s in steps for p in s.alternatives for d in s.located(p, carried).diffs}
    places = {*paths, *(at for p in wanted if (at := layout.locate(p)))}
    base = {
        name: data
        for path in sorted(places)
        if (name := layout.source(path)) and (data := files.get(path)) is not None
    }
    now = Files(mapping_reader(base))
    fits = [f for s in steps if (f := apply_step(now, s, carried)).ok]
    root = new_commit("base", b"What is known of the base\n", dict(base), {})
    ref = f"{REFS}/new/{new_id('old')}"
    top = write_commits(repo, None, (root, *plan_commits(fits, {})), ref)
    return read_chain(repo, top)


def mail_of_commit(repo: Repository, commit: str, more: bytes = b"") -> bytes:
    """A commit as a mail, with both ids of each file in full; `more` are diffs that it lacks."""
    text = repo.git.bytes_of(
        "format-patch", "--stdout", "-1", "--zero-commit", "--no-signature", "--no-numbered",
        "--full-index", "--no-renames", "--no-stat", "--no-attach", "-U3", commit,
    )  # fmt: skip
    return text.rstrip(b"\n") + b"\n" + more + b"\n"


def mail_of_step(step: Step, layout: Layout) -> bytes:
    """A patch that is nowhere applied, as a mail."""
    patch = step.alternatives[0]
    name = patch.name.removesuffix(".patch")
    title = "Add new files" if isinstance(step, FilesStep) else name
    mail = read_mail(patch.data, title)
    where = layout if step.layer is Layer.LLAMA_CPP else Plain()
    body = _new_files(step, where) if isinstance(step, FilesStep) else diffs_at(patch, where, set())
    seconds, zone = mail.date.decode().split(" ")
    return (
        b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        b"From: " + mail.author + b"\nDate: " + f"@{seconds} {zone}".encode()
        + b"\nSubject: [PATCH] " + mail.subject + b"\n\n"
        + (mail.body + b"\n\n" if mail.body else b"")
        + f"{TRAILER}: {name} sha256:{patch.sha256}\n---\n".encode() + body + b"\n"
    )  # fmt: skip


def diffs_at(patch: Patch, layout: Layout, without: set[str]) -> bytes:
    """The diffs of a patch, at their places in a tree, without those of some files."""
    texts = []
    for path, text in split_segments(patch.data)[1]:
        place = layout.locate(path)
        if place is None or path in without:
            continue
        head, hunks, rest = text.partition(b"\n@@ ")
        old, new = path.encode("utf-8", "surrogateescape"), place.encode("utf-8", "surrogateescape")
        for side in (b"a/", b"b/"):
            head = head.replace(side + old, side + new)
        texts.append(head + hunks + rest)
    return b"".join(texts)


def _new_files(step: FilesStep, layout: Layout) -> bytes:
    texts = []
    patch = step.alternatives[0]
    for diff in step.located(patch, layout).diffs:
        name = diff.path.encode("utf-8", "surrogateescape")
        head = b"diff --git a/%s b/%s\nnew file mode 100644\nindex %s..%s\n" % (
            name, name, b"0" * 40, (diff.new_id or "").encode(),
        )  # fmt: skip
        texts.append(head)
        for hunk in diff.hunks:
            lines = hunk.new.splitlines(keepends=True)
            texts.append(b"--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n" % (name, len(lines)))
            texts += [b"+" + line for line in lines]
            if not hunk.new.endswith(b"\n"):
                texts.append(b"\n\\ No newline at end of file\n")
    return b"".join(texts)
