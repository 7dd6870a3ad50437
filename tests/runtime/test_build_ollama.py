"""`ollama-build build --target ollama`: both generations of a made-up Ollama, with cmake and go played."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patches.releases import Release, git, make_legacy, make_modern, make_ours
from tqconvert.runtime.embed import c_header, find_manifest, go_file

Run = Callable[..., tuple[int, str, str]]

CMAKE = """
import os, sys
from pathlib import Path
control, args = Path(os.environ["FAKE"]), sys.argv[1:]
with (control / "calls").open("a") as f:
    print("cmake " + " ".join(args) + " CFLAGS=" + os.environ.get("CFLAGS", ""), file=f)
if "-B" in args:
    build = Path(args[args.index("-B") + 1])
    build.mkdir(parents=True, exist_ok=True)
    (build / "args").write_text("\\n".join(args))
    sys.exit()
build = Path(args[1])
values = dict(a[2:].split("=", 1) for a in (build / "args").read_text().splitlines() if a.startswith("-D"))
if args[0] == "--install":
    lib = Path(values["CMAKE_INSTALL_PREFIX"]) / "lib" / "ollama"
    lib.mkdir(parents=True)
    for name in ("llama-server", "llama-quantize", "libllama.so.0"):
        (lib / name).write_text("#!/bin/sh\\necho 0\\n")
        (lib / name).chmod(0o755)
    (lib / "libllama.so").symlink_to("libllama.so.0")
    sys.exit()
names = args[args.index("--target") + 1:]
if names == ["help"]:
    print("ggml-base\\nggml-cpu\\nggml-cpu-x64\\nggml-cpu-haswell\\nllama-server\\nllama-quantize")
    sys.exit()
lib = build / "lib" / "ollama"
lib.mkdir(parents=True, exist_ok=True)
for i, name in enumerate(names, start=1):
    print(f"[{i}/{len(names)}] Building CXX object {name}.cpp.o", flush=True)
    (lib / f"lib{name}.so").write_text(name)
"""

GO = """
import os, sys
from pathlib import Path
control, args = Path(os.environ["FAKE"]), sys.argv[1:]
if args[0] == "env":
    print("go1.26.0", *(os.environ.get(name, "") for name in args[2:]), sep="\\n")
    sys.exit()
with (control / "calls").open("a") as f:
    print("go " + " ".join(args) + " DATE=" + os.environ.get("SOURCE_DATE_EPOCH", ""), file=f)
if (control / "go.fail").exists():
    print((control / "go.fail").read_text())
    sys.exit(1)
if args[0] == "list":
    print("runtime\\ngithub.com/ollama/ollama")
    sys.exit()
print("runtime\\ngithub.com/ollama/ollama", flush=True)
out = Path(args[args.index("-o") + 1])
text = Path("llm/server.go").read_text()
import json, re
line = ""
header, inner = Path("ml/backend/ggml/ggml/src/ggml-turbo-build.h"), Path("version/tqconvert.go")
if header.exists():
    parts = re.findall(r'^ +"((?:[^"\\\\]|\\\\.)*)"', header.read_text(), re.M)
    line += "".join(parts).encode().decode("unicode_escape")
if inner.exists():
    found = re.search("tqconvertManifest = (.*)", inner.read_text())
    line += json.loads(found[1])
out.write_text("#!/bin/sh\\necho version\\nexit\\n" + line + text)
out.chmod(0o755)
"""


@dataclass(frozen=True)
class Shop:
    """A release of each generation, patches, a cache, and programs that play tools."""

    legacy: Release
    modern: Release
    patches: Path
    cache: Path
    control: Path

    def calls(self, program: str) -> list[str]:
        """What a program was called with."""
        path = self.control / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [x for x in lines if x.startswith(program)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases and patches, made once; copied where a test changes them."""
    folder = tmp_path_factory.mktemp("sources")
    make_legacy(folder / "legacy")
    modern = make_modern(folder / "modern")
    # The hooks that a modern build looks for.
    assert b"llama_ollama_compat" in modern.patches[0].read_bytes()
    make_ours(folder / "ours")
    return folder


@pytest.fixture
def shop(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Everything that a build of Ollama needs, in small."""
    shutil.copytree(sources, tmp_path / "sources")
    folder = tmp_path / "sources"
    control, programs = tmp_path / "control", tmp_path / "bin"
    control.mkdir()
    programs.mkdir()
    version = f"#!{sys.executable}\nprint('fake 1.0')\n"
    for name, text in {
        "cmake": f"#!{sys.executable}\n{CMAKE}", "go": f"#!{sys.executable}\n{GO}", "ninja": version,
        "cc": version, "c++": version,
    }.items():  # fmt: skip
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(control))
    monkeypatch.setenv("TQCONVERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tqconvert.runtime.ollama.HOOKS", {"src/llama.cpp": b"llama_ollama_compat"})
    legacy = Release(folder / "legacy/ollama", folder / "legacy/llama.cpp", "", ())
    modern = Release(folder / "modern/ollama", folder / "modern/llama.cpp", "", ())
    return Shop(legacy, modern, folder / "ours", tmp_path / "cache", control)


def build(run_cli: Run, shop: Shop, *args: object) -> dict:
    """The document of a build that succeeds."""
    code, out, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "-j", "1", "--json", *args
    )  # fmt: skip
    assert code == 0, out + err
    return json.loads(out)


def test_a_legacy_release(shop: Shop, run_cli: Run) -> None:
    """One Go program and the CPU's libraries; the manifest is beside and inside, and read back."""
    document = build(run_cli, shop, "--source", shop.legacy.ollama, "--tag", "v0.99.0")
    folder, made = Path(document["folder"]), document["build"]
    assert (document["target"], document["release"]) == ("ollama", "v0.99.0")
    assert len(document["upstream"]) == 8
    assert document["patches"] == ["ids.patch", "ops.patch", "server.patch"]
    assert (folder / "bin/ollama").read_bytes().count(b"TQCONVERT-MANIFEST") == 1
    names = {p["name"] for p in made["programs"]}
    assert "ollama" in names
    assert "lib/ollama/libggml-base.so" in names
    assert "server_types" in (folder / "bin/ollama").read_text(errors="replace")
    assert any("version.Version=0.99.0+tq" in c for c in shop.calls("go build"))
    assert all("-trimpath -buildvcs=false" in c for c in shop.calls("go build"))
    code, out, _ = run_cli("ollama-build", "whatis", folder / "bin/ollama", "--json")
    assert (code, json.loads(out)["id"]) == (0, document["id"])
    alone = shutil.copy(folder / "bin/ollama", shop.cache.parent / "moved")
    code, out, _ = run_cli("ollama-build", "whatis", alone, "--json")
    found = json.loads(out)
    assert (code, found["embedded"], found["id"]) == (0, True, document["id"])
    assert [p["name"] for p in found["upstream"]] == document["upstream"]
    assert found["programs"] == []


def test_nothing_of_the_place_and_time_goes_into_a_build(shop: Shop, run_cli: Run) -> None:
    """Paths, dates and Go's own id are kept out: two builds of v0.19.0 in two caches were equal bytes."""
    build(run_cli, shop, "--source", shop.legacy.ollama)
    (go,) = shop.calls("go build")
    assert "-trimpath" in go
    assert "-buildid=" in go
    assert go.endswith("DATE=0")
    (configure,) = set(shop.calls("cmake -S"))
    assert f"-ffile-prefix-map={shop.cache}/builds/" in configure
    assert "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON" in configure


def test_a_modern_release(shop: Shop, run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp is prepared with compat patches and ours, and handed to Ollama's CMake as prepared."""
    monkeypatch.setenv("OLLAMA_LLAMA_CPP_SOURCE", "/elsewhere")
    git(shop.modern.llama, "tag", "-d", "b99999")
    document = build(
        run_cli, shop, "--source", shop.modern.ollama, "--llama-cpp", shop.modern.llama
    )
    assert document["build"]["llama_cpp"]["source"]["kind"] == "folder"
    assert (document["release"], document["base"]) == ("v0.99.0", "b99999")
    assert document["upstream"] == ["001-hooks.patch", "003-metal.patch"]
    assert document["patches"] == ["ids.patch", "ops.patch", "llama.patch", "server.patch"]
    (configure,) = (c for c in shop.calls("cmake -S") if "llama/server" in c)
    assert "-DOLLAMA_LLAMA_CPP_SKIP_COMPAT_PATCH=ON" in configure
    assert f"-DFETCHCONTENT_SOURCE_DIR_LLAMA_CPP={shop.cache}/builds/" in configure
    assert "-DFETCHCONTENT_FULLY_DISCONNECTED=ON" in configure
    assert document["build"]["llama_cpp"]["tree"]
    inside = find_manifest(Path(document["folder"]) / "bin/ollama")
    assert inside
    assert inside["llama_cpp"] == document["build"]["llama_cpp"]
    programs = {p["name"] for p in document["build"]["programs"]}
    assert {"ollama", "lib/ollama/llama-server", "lib/ollama/llama-quantize"} <= programs
    assert (Path(document["folder"]) / "lib/ollama/libllama.so").readlink() == Path("libllama.so.0")


def test_a_clone_gives_the_llama_cpp_that_the_release_names(shop: Shop, run_cli: Run) -> None:
    """A bare clone is asked for the tag in LLAMA_CPP_VERSION, wherever its branches stand."""
    bare = shop.cache.parent / "llama.git"
    git(shop.cache.parent, "clone", "-q", "--bare", str(shop.modern.llama), str(bare))
    document = build(run_cli, shop, "--source", shop.modern.ollama, "--llama-cpp", bare)
    assert document["build"]["llama_cpp"]["source"]["kind"] == "git"
    git(bare, "tag", "-d", "b99999")
    code, _, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "--source", shop.modern.ollama,
        "--llama-cpp", bare,
    )  # fmt: skip
    assert code == 5
    assert "has no b99999" in err


def test_the_second_time_nothing_is_done(shop: Shop, run_cli: Run) -> None:
    """Nor where the same files lie elsewhere."""
    args = ("--source", shop.legacy.ollama, "--tag", "v0.99.0")
    first = build(run_cli, shop, *args)
    calls = len(shop.calls("go build"))
    again = build(run_cli, shop, *args)
    assert (again["fresh"], again["id"]) == (False, first["id"])
    assert len(shop.calls("go build")) == calls


def test_a_tree_that_has_the_queue_already_is_built_as_it_is(shop: Shop, run_cli: Run) -> None:
    """The same patches are named as for a release they were put on by the build."""
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.patches.files import Files, folder_reader
    from tqconvert.patches.queue import read_queue
    from tqconvert.patches.walk import apply_steps

    tree = shop.legacy.ollama
    first = build(run_cli, shop, "--source", tree)
    queue = read_queue(find_checkout(tree), shop.patches)
    files = Files(folder_reader(tree))
    apply_steps(files, queue.ours, queue.checkout.layout)
    for name, data in files.changes().items():
        assert data is not None
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    second = build(run_cli, shop, "--source", tree, "--tag", "HEAD")
    third = build(run_cli, shop, "--source", tree)
    assert third["patches"] == first["patches"] == second["patches"]
    assert third["build"]["tree"] == first["build"]["tree"]


def test_patches_on_a_branch_hide_no_release(shop: Shop, run_cli: Run) -> None:
    """After `apply` HEAD has no tag: the release is told by the commit below. Edits are named."""
    args = ("--patches", shop.patches)
    assert run_cli("ollama-build", "apply", shop.legacy.ollama, *args)[0] == 0
    source = ("--source", shop.legacy.ollama, "--dry-run")
    assert build(run_cli, shop, *source)["release"] == "v0.99.0"
    (shop.legacy.ollama / "main.go").write_text("package main // mine\n")
    code, out, _ = run_cli("ollama-build", "build", *args, *source)
    assert code == 0
    assert "Ollama v0.99.0 " in out
    assert "-dirty (" in out.splitlines()[0]


def test_a_plain_tree_has_no_tags(shop: Shop, run_cli: Run) -> None:
    """It would be built as it is, under the name of another release."""
    shutil.rmtree(shop.legacy.ollama / ".git")
    code, _, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "--source", shop.legacy.ollama,
        "--tag", "v0.98.0", "--dry-run",
    )  # fmt: skip
    assert code == 2
    assert "is no repository" in err


def test_addresses_that_end_alike_are_kept_apart(shop: Shop, tmp_path: Path, run_cli: Run) -> None:
    """A tag that was fetched from one is not the other's."""
    for owner in ("one", "two"):
        (tmp_path / owner).mkdir()
        shutil.copytree(shop.legacy.ollama, tmp_path / owner / "ollama")
    fork = tmp_path / "two" / "ollama"
    (fork / "main.go").write_text("package main // fork\n")
    git(fork, "commit", "-qam", "fork")
    git(fork, "tag", "-f", "v0.99.0")
    trees = {
        build(
            run_cli, shop, "--source", f"file://{tmp_path}/{owner}/ollama", "--tag", "v0.99.0", "--dry-run"
        )["source"]["tree"]
        for owner in ("one", "two")
    }  # fmt: skip
    assert len(trees) == 2


def test_stock(shop: Shop, run_cli: Run) -> None:
    """The same source without anything of ours, to compare with: no patch, no manifest inside."""
    document = build(run_cli, shop, "--source", shop.legacy.ollama, "--stock")
    assert document["patches"] == []
    program = Path(document["folder"]) / "bin/ollama"
    assert "server_types" not in program.read_text(errors="replace")
    assert find_manifest(program) is None


def test_a_tree_that_is_no_release_is_refused(shop: Shop, run_cli: Run) -> None:
    """A local edit under a patch of Ollama's: exit 4, nothing compiled."""
    path = shop.legacy.ollama / "ml/backend/ggml/ggml/src/ggml.c"
    path.write_bytes(path.read_bytes().replace(b"ggml_c_reset", b"ggml_c_mine"))
    code, _, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "--source", shop.legacy.ollama
    )
    assert code == 4
    assert "neither a release nor one with all patches" in err
    assert "ollama-build status" in err
    assert shop.calls("cmake") == []


def test_missing_hooks_are_found_before_compiling(
    shop: Shop, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of the library would not load."""
    monkeypatch.setattr("tqconvert.runtime.ollama.HOOKS", {"src/llama.cpp": b"other_hook"})
    code, _, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "--source", shop.modern.ollama,
        "--llama-cpp", shop.modern.llama,
    )  # fmt: skip
    assert code == 4
    assert "compat hooks are not in it" in err


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("go: go.mod requires go >= 1.27.0 (running go 1.26.0; GOTOOLCHAIN=local)", 8, "expected go1.27.0"),
        ("x.go:3:1: missing: module lookup disabled by GOPROXY=off", 11, "without --offline"),
        ("# pkg\nllm/server.go:7:2: undefined: x", 1, "llm/server.go:7:2: undefined: x"),
        ("write /tmp/x: no space left on device", 9, "no space left"),
    ],
)  # fmt: skip
def test_gos_failures(shop: Shop, run_cli: Run, said: str, code: int, words: str) -> None:
    """Each has its exit code and the next step; the log is kept and named."""
    (shop.control / "go.fail").write_text(said)
    got, _, err = run_cli(
        "ollama-build", "build", "--patches", shop.patches, "--source", shop.legacy.ollama,
        "--offline",
    )  # fmt: skip
    assert got == code
    assert words in err
    assert list(shop.cache.glob("builds/*/build.log"))
    assert not list(shop.cache.glob("runtimes/*"))


def test_offline_forbids_an_address(shop: Shop, run_cli: Run) -> None:
    """Exit 11, and what to give instead."""
    code, _, err = run_cli(
        "ollama-build", "build", "--target", "ollama", "--offline", "--patches", shop.patches
    )
    assert code == 11
    assert "--source DIR" in err


def test_the_manifest_survives_both_languages(tmp_path: Path) -> None:
    """What C and Go sources hold is the same line, whatever is in the document."""
    document = {
        "schema": "x",
        "text": 'quotes " and \\ back, tri??graphs, ünïcode',
        "n": list(range(900)),
    }
    go = tmp_path / "go"
    line = next(x for x in go_file(document).decode().splitlines() if "tqconvertManifest =" in x)
    go.write_bytes(b"\x7fELF" + json.loads(line.partition("= ")[2]).encode() + b"rest")
    assert find_manifest(go) == document
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return
    import subprocess

    source, output = tmp_path / "m.c", tmp_path / "m.o"
    source.write_bytes(c_header(document))
    subprocess.run([compiler, "-Wall", "-Werror", "-c", source, "-o", output], check=True)
    assert find_manifest(output) == document


def test_what_changes_go_code_makes_another_build(
    shop: Shop, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of Go that reach the compiler are a part of the build's id."""
    args = ("--source", shop.legacy.ollama)
    first = build(run_cli, shop, *args)
    monkeypatch.setenv("GOAMD64", "v3")
    assert build(run_cli, shop, *args)["id"] != first["id"]
