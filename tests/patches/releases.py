"""A small Ollama, made by the tests: the same layout as the real one, with patches, filters and history.

Nothing in it is anybody's source: numbered lines, one function-like row a line, so that hunks have
unique context. `make_legacy` builds what Ollama v0.17.1 to v0.24.0 look like, `make_modern` v0.30 and
later; both come with the llama.cpp repository that they are made from.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

GIT = shutil.which("git") or "git"
ENV = {
    "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "A U Thor", "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_NAME": "C O Mitter",
    "GIT_COMMITTER_EMAIL": "committer@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
}  # fmt: skip

LLAMA_FILTER = """\
protect .rsync-filter
protect *.go
include /include/
include /include/llama.*
include /src/
include /src/llama.*
include /src/llama-*.*
hide *
"""
GGML_FILTER = """\
protect .rsync-filter
protect *.go
protect *-embed.*
hide /CMakeLists.txt
include /include/
include /src/
include /src/ggml-cpu/
include /src/ggml-metal/
include CMakeLists.txt
include *.[chm]
include *.cpp
include *.metal
hide *
"""
MAKEFILE = """\
UPSTREAM=https://example.com/llama.cpp.git
WORKDIR=llama/vendor
FETCH_HEAD={base}
"""
VENDORED = {"ggml/": "ml/backend/ggml/ggml/", "": "llama/llama.cpp/"}
NOT_VENDORED = (
    "ggml/src/ggml-cann/ggml-cann.cpp",
    "src/CMakeLists.txt",
    "README.md",
    "ggml/CMakeLists.txt",
    "CMakeLists.txt",
)


@dataclass(frozen=True)
class Release:
    """One made-up release."""

    ollama: Path
    """A repository, everything committed, tagged v0.99.0."""
    llama: Path
    """The llama.cpp repository: branch `master` at the base, `patched` with all patches as commits."""
    base: str
    """Commit of the base."""
    patches: tuple[Path, ...]


def git(folder: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
    """What git prints; a failure fails the test."""
    done = subprocess.run(
        [GIT, *args], cwd=folder, env={**ENV, **(env or {})}, capture_output=True, check=False
    )
    assert done.returncode == 0, (args, done.stderr.decode())
    return os.fsdecode(done.stdout).strip()


def lines(name: str, count: int = 60) -> bytes:
    """A file of numbered lines, each unique."""
    return b"".join(b"int %s_%d(void);\n" % (name.encode(), n) for n in range(count))


def replaced(number: int, name: str, text: str) -> Callable[[bytes], bytes]:
    """An edit: line `number` of a file made by `lines` becomes `text`."""
    old = f"int {name}_{number}(void);\n".encode()

    def edit(data: bytes) -> bytes:
        assert old in data, (name, number)
        return data.replace(old, text.encode() + b"\n")

    return edit


def added(number: int, name: str, text: str) -> Callable[[bytes], bytes]:
    """An edit: `text` follows line `number`."""
    old = f"int {name}_{number}(void);\n".encode()

    def edit(data: bytes) -> bytes:
        assert old in data, (name, number)
        return data.replace(old, old + text.encode() + b"\n")

    return edit


BASE: dict[str, bytes] = {
    "CMakeLists.txt": lines("cmake"),
    "README.md": b"a library\n",
    "ggml/CMakeLists.txt": lines("ggml_cmake"),
    "ggml/include/ggml.h": lines("ggml_h"),
    "ggml/src/ggml.c": lines("ggml_c", 120),
    "ggml/src/CMakeLists.txt": lines("ggml_src_cmake"),
    "ggml/src/ggml-cpu/ops.cpp": lines("ops", 200),
    "ggml/src/ggml-cpu/quants.c": lines("quants").rstrip(b"\n"),  # no line end at its end
    "ggml/src/ggml-metal/ggml-metal.metal": lines("metal"),
    "ggml/src/ggml-cann/ggml-cann.cpp": lines("cann"),
    "include/llama.h": lines("llama_h"),
    "src/llama.cpp": lines("llama"),
    "src/llama-vocab.cpp": lines("vocab"),
    "src/CMakeLists.txt": lines("src_cmake"),
}

Edits = dict[str, Callable[[bytes], bytes]]

PATCHES: tuple[tuple[str, Edits], ...] = (
    ("backend: free with the same compiler",
     {"ggml/src/ggml.c": replaced(10, "ggml_c", "int ggml_c_free(void);"),
      "ggml/src/ggml-cann/ggml-cann.cpp": added(5, "cann", "int cann_free(void);")}),
    ("vocab: pretokenizer", {"src/llama-vocab.cpp": replaced(30, "vocab", "int vocab_pre(void);")}),
    ("build: one target for all variants",
     {"src/CMakeLists.txt": added(20, "src_cmake", "phony"),
      "ggml/src/CMakeLists.txt": added(20, "ggml_src_cmake", "phony")}),
    ("ops: argsort for i32",
     {"ggml/src/ggml-cpu/ops.cpp": added(100, "ops", "int ops_argsort_i32(void);"),
      "ggml/src/ggml-metal/ggml-metal.metal": added(30, "metal", "kernel void argsort();")}),
    ("mem: a new file", {"ggml/src/mem_nvml.cpp": lambda _: lines("nvml", 40)}),
    # Stacked: each on lines that an earlier one wrote.
    ("mem: fall back", {"ggml/src/mem_nvml.cpp": replaced(20, "nvml", "int nvml_fallback(void);")}),
    ("backend: reset devices",
     {"ggml/src/ggml.c": lambda d: d.replace(b"int ggml_c_free(void);\n", b"int ggml_c_reset(void);\n")}),
    ("quants: last line", {"ggml/src/ggml-cpu/quants.c": lambda d: d + b" // end"}),
)  # fmt: skip

OLLAMA: dict[str, bytes] = {
    "go.mod": b"module github.com/ollama/ollama\n\ngo 1.24\n",
    "main.go": b"package main\n\nfunc main() {}\n",
    "llm/server.go": lines("server"),
    "kvcache/cache.go": lines("cache"),
}


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files below `root`."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def commit(folder: Path, subject: str) -> str:
    """Commit everything; returns the commit."""
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "--allow-empty", "-m", subject)
    return git(folder, "rev-parse", "HEAD")


def make_llama(
    folder: Path, patches: tuple[tuple[str, Edits], ...] = PATCHES,
    base: Mapping[str, bytes] = BASE,
) -> str:  # fmt: skip
    """A llama.cpp repository with branches `master` (the base) and `patched`; returns the base."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "master")
    write_tree(folder, base)
    start = commit(folder, "base")
    git(folder, "checkout", "-q", "-b", "patched")
    for subject, edits in patches:
        for name, edit in edits.items():
            path = folder / name
            old = path.read_bytes() if path.exists() else b""
            write_tree(folder, {name: edit(old)})
        commit(folder, subject)
    return start


def vendored(path: str) -> str:
    """Where a file of llama.cpp lies in the made-up Ollama."""
    top = "ggml/" if path.startswith("ggml/") else ""
    return VENDORED[top] + path.removeprefix(top)


def make_legacy(
    folder: Path, patches: tuple[tuple[str, Edits], ...] = PATCHES,
    base: Mapping[str, bytes] = BASE,
) -> Release:  # fmt: skip
    """A release of the legacy generation: vendored trees with all patches in."""
    llama, ollama = folder / "llama.cpp", folder / "ollama"
    start = make_llama(llama, patches, base)
    ollama.mkdir()
    git(ollama, "init", "-q", "-b", "main")
    out = ollama / "llama" / "patches"
    git(llama, "format-patch", "-q", "--no-signature", "--no-numbered", "--zero-commit",
        "-o", str(out), f"{start}..patched")  # fmt: skip
    tracked = git(llama, "ls-tree", "-r", "--name-only", "patched").splitlines()
    tree = {vendored(p): (llama / p).read_bytes() for p in tracked if p not in NOT_VENDORED}
    write_tree(
        ollama,
        {
            **OLLAMA, **tree,
            "Makefile.sync": MAKEFILE.format(base=start[:9]).encode(),
            "llama/llama.cpp/.rsync-filter": LLAMA_FILTER.encode(),
            "ml/backend/ggml/ggml/.rsync-filter": GGML_FILTER.encode(),
            "llama/llama.cpp/llama.go": b"package llama\n",
            "ml/backend/ggml/ggml/src/ggml.go": b"package ggml\n",
        },
    )  # fmt: skip
    commit(ollama, "release")
    git(ollama, "tag", "v0.99.0")
    git(llama, "checkout", "-q", "master")
    return Release(ollama, llama, start, tuple(sorted(out.glob("*.patch"))))


def make_modern(folder: Path, base: Mapping[str, bytes] = BASE) -> Release:
    """A release of the modern generation: a pin and compat patches, nothing vendored."""
    llama, ollama = folder / "llama.cpp", folder / "ollama"
    compat: tuple[tuple[str, Edits], ...] = (
        ("hooks", {"src/llama.cpp": added(10, "llama", "int llama_ollama_compat(void);")}),
        ("metal", {"ggml/src/ggml-metal/ggml-metal.metal": added(40, "metal", "kernel void x();")}),
    )
    start = make_llama(llama, compat, base)
    git(llama, "tag", "b99999", start)
    ollama.mkdir()
    git(ollama, "init", "-q", "-b", "main")
    names = ("llama/compat/001-hooks.patch", "llama/compat/models/003-metal.patch")
    commits = git(llama, "rev-list", "--reverse", f"{start}..patched").splitlines()
    diffs = [git(llama, "diff", f"{c}^", c).encode() + b"\n" for c in commits]
    write_tree(
        ollama,
        {
            **OLLAMA, "LLAMA_CPP_VERSION": b"b99999\n", "llama/compat/compat.cmake": b"# none\n",
            "llama/server/CMakeLists.txt": b"# none\n", **dict(zip(names, diffs, strict=True)),
        },
    )  # fmt: skip
    commit(ollama, "release")
    git(ollama, "tag", "v0.99.0")
    git(llama, "checkout", "-q", "master")
    return Release(ollama, llama, start, tuple(ollama / n for n in names))


HEADER = """\
Subject: {subject}
TQ-Id: tq-all-{name}
Origin: tqconvert
Forwarded: no
Why-Kept: feature
Why: the tests need it
Drop-When: the tests are gone
Applies-To: everything
SPDX-License-Identifier: MIT

"""


def make_ours(folder: Path) -> Path:
    """A small `ollama_patches`: a new file, two hooks for all bases, one of them with an alternative,
    and one for each generation's Go."""  # noqa: D209, D205 - one sentence
    scratch = folder.parent / f".{folder.name}.scratch"
    make_llama(scratch, (), {**BASE, **OLLAMA})

    def diff(name: str, edits: Edits) -> bytes:
        for path, edit in edits.items():
            write_tree(scratch, {path: edit((scratch / path).read_bytes())})
        text = git(scratch, "diff", "-U1", "--full-index")
        git(scratch, "checkout", "-q", ".")
        head = HEADER.format(subject=f"Add {name}", name=name)
        return head.encode() + text.encode() + b"\n"

    write_tree(
        folder,
        {
            "files/ggml/src/ggml-turbo.c": b"int turbo(void);\n",
            "llama.cpp/series": b"ids-new.patch | ids.patch [ggml]\nops.patch [ggml]\nllama.patch [llama]\n",
            "llama.cpp/ids-new.patch": diff(
                "ids-new", {"ggml/include/ggml.h": replaced(5, "ggml_h", "int id(void);")}
            ).replace(b"ggml_h_4(", b"ggml_h_of_another_age("),
            "llama.cpp/ids.patch": diff("ids", {"ggml/include/ggml.h": added(5, "ggml_h", "int id(void);")}),
            "llama.cpp/ops.patch": diff(
                "ops", {"ggml/src/ggml-cpu/ops.cpp": added(150, "ops", "int ops_turbo(void);"),
                        "ggml/src/ggml.c": added(80, "ggml_c", "int ggml_turbo(void);")}
            ),
            "llama.cpp/llama.patch": diff("llama", {"src/llama.cpp": added(40, "llama", "int kv(void);")}),
            "legacy/files/kvcache/turbo.go": b"package kvcache\n",
            "legacy/ollama-go/series": b"server.patch\n",
            "legacy/ollama-go/server.patch": diff(
                "server", {"llm/server.go": replaced(20, "server", "int server_types(void);")}
            ),
            "modern/ollama-go/series": b"server.patch\n",
            "modern/ollama-go/server.patch": diff(
                "server", {"llm/server.go": replaced(25, "server", "int server_types(void);")}
            ),
        },
    )  # fmt: skip
    shutil.rmtree(scratch)
    return folder
