"""`ollama-build build`: what it makes, when it makes nothing, and how it fails."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import stop
from killer import states

from tqconvert.digest import digest_path
from tqconvert.runtime.locate import list_runtimes, open_build

Run = Callable[..., tuple[int, str, str]]


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of all files and folders."""
    return {
        str(p.relative_to(root)): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns)
        for p in [root, *root.rglob("*")]
    }


def finished(cache: Path) -> list[Path]:
    """Folders in the cache that pass for a whole build."""
    return [p for p in (cache / "runtimes").glob("*") if open_build(p)]


def test_a_build_and_its_manifest(workshop, run_cli: Run) -> None:
    """Programs, hashes, patches, flags; the user's tree stays as it is; the work is removed."""
    before = snapshot(workshop.tree)
    code, out, err = run_cli("ollama-build", *workshop.args, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    build, folder = document["build"], Path(document["folder"])
    assert document["schema"] == "tqconvert.ollama-build.build/1"
    assert json.loads((folder / "build.json").read_text()) == {
        "schema": "tqconvert.build/1",
        **build,
    }
    assert snapshot(workshop.tree) == before
    names = [p["name"] for p in build["programs"]]
    assert names[-3:] == ["llama-kv-stats", "test-turbo", "test-turbo-pairs"]
    assert "llama-cli" not in names
    for program in build["programs"]:
        assert digest_path(folder / "bin" / program["name"]).hex == program["sha256"]
    (patch,), (file,) = build["patches"], build["new_files"]
    assert patch["name"] == "types.patch"
    assert patch["sha256"] == digest_path(workshop.patches / "llama.cpp" / "types.patch").hex
    assert file["name"] == "ggml/src/ggml-turbo.c"
    assert build["compiler"]["cxx"] == "fake c++ 1.0"
    assert {"GGML_NATIVE=ON", "LLAMA_BUILD_UI=OFF", "LLAMA_OPENSSL=OFF"} <= set(build["flags"])
    assert build["cpu"]["id"]
    assert build["tree"] != build["source"]["tree"]
    assert not (workshop.cache / "builds" / document["id"]).exists()


def test_what_is_compiled_is_the_patched_copy(workshop, run_cli: Run) -> None:
    """Patched files are there, files that no build reads are not."""
    workshop.tell("compile.fail", "x.cpp:1:1: error: no\n")
    assert run_cli("ollama-build", *workshop.args)[0] == 1
    (src,) = workshop.cache.glob("builds/*/src")
    assert "COUNT = 64" in (src / "ggml/include/ggml.h").read_text()
    assert (src / "ggml/src/ggml-turbo.c").exists()
    assert {p.name for p in src.iterdir()} == {"CMakeLists.txt", "ggml", "tools"}


def test_the_second_time_nothing_is_done(workshop, run_cli: Run) -> None:
    """Not even where the tree lies elsewhere, or holds other things that no build reads."""
    first = run_cli("ollama-build", *workshop.args, "-q")[1]
    calls = workshop.calls
    (workshop.tree / "docs" / "page.md").write_text("other\n")
    moved = workshop.tree.rename(workshop.tree.with_name("moved"))
    args = ["--source", moved, "--patches", workshop.patches]
    code, out, _ = run_cli("ollama-build", "build", *args, "--json")
    assert (code, json.loads(out)["fresh"]) == (0, False)
    assert json.loads(out)["folder"] + "\n" == first
    assert workshop.calls == calls


def test_every_input_makes_another_build(
    workshop, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source, patch, file, flag, scope, variant, compiler, CXXFLAGS."""

    def build(*args: str) -> str:
        code, out, err = run_cli("ollama-build", *workshop.args, *args, "-q")
        assert code == 0, err
        return out

    found = [build(), build("--cpu", "portable"), build("--ggml-only")]
    found.append(build("--cmake-arg", "GGML_OPENMP=OFF"))
    (workshop.tree / "tools/server/server.cpp").write_text("int main() { return 0; }\n")
    found.append(build())
    (workshop.patches / "files/ggml/src/ggml-turbo.c").write_text("int turbo2;\n")
    found.append(build())
    (workshop.patches / "llama.cpp/series").write_text("")
    found.append(build())
    compiler = workshop.bin / "c++"
    compiler.write_text(compiler.read_text().replace("1.0", "2.0"))
    found.append(build())
    monkeypatch.setenv("CXXFLAGS", "-O1")
    found.append(build())
    assert len(set(found)) == len(found)


def test_a_dry_run_changes_nothing(workshop, run_cli: Run) -> None:
    """It tells which patches apply, and fails where one does not."""
    code, out, _ = run_cli("ollama-build", *workshop.args, "--dry-run")
    assert code == 0
    assert "patch types.patch applies" in out
    assert not workshop.cache.exists()
    assert workshop.calls == []
    (workshop.tree / "ggml/include/ggml.h").write_text("int other;\n")
    code, _, err = run_cli("ollama-build", *workshop.args, "--dry-run")
    assert code == 1
    assert err.startswith("error: types.patch: does not apply to ggml/include/ggml.h\n")


def test_without_the_sdist_a_dry_run_fetches_nothing(workshop, run_cli: Run) -> None:
    """It says what it would fetch; --offline refuses."""
    code, out, _ = run_cli("ollama-build", "build", "--patches", workshop.patches, "--dry-run")
    assert code == 0
    assert "would fetch llama-cpp-python==0.3.36" in out
    for more in ([], ["--dry-run"]):
        args = ["build", "--patches", workshop.patches, "--offline", *more]
        code, _, err = run_cli("ollama-build", *args)
        assert code == 11
        assert err.startswith("error: llama-cpp-python==0.3.36: not in ")
        assert "give --source PATH/TO/llama_cpp_python-0.3.36.tar.gz" in err


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cmake", "apt-get install cmake"), ("c++", "apt-get install g++"), ("cc", "apt-get install gcc"),
     ("ninja", "apt-get install make ninja-build")],
)  # fmt: skip
def test_a_missing_tool_is_named(workshop, run_cli: Run, name: str, hint: str) -> None:
    """Exit 8 and what to install, before anything is copied."""
    (workshop.bin / name).unlink()
    code, _, err = run_cli("ollama-build", *workshop.args)
    assert code == 8
    assert hint in err
    assert not (workshop.cache / "builds").exists()


def test_a_compiler_that_is_named_and_missing(
    workshop, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CXX is heeded; arguments in it, which cmake would not get, are refused."""
    monkeypatch.setenv("CXX", "g++-99")
    code, _, err = run_cli("ollama-build", *workshop.args)
    assert code == 8
    assert "g++-99: not on PATH (named by CXX)" in err
    for text in ("c++ -m64", "ccache c++", "'c++ x"):
        monkeypatch.setenv("CXX", text)
        code, _, err = run_cli("ollama-build", *workshop.args)
        assert code == 13
        assert f"CXX={text}: more than the name of a program" in err
        assert "flags belong in CXXFLAGS" in err


@pytest.mark.parametrize(
    ("phase", "log", "code", "words"),
    [
        ("compile", "[3/9] x\na.cpp:3:5: warning: w\na.cpp:7:9: error: 'x' was not declared\nb.cpp:1:1: error: later\n", 1, "a.cpp:7:9: error: 'x' was not"),
        ("compile", "ld: a.o: in function f:\na.cpp:(.text+0x1): undefined reference to `g'\n", 1,
         "undefined reference to `g'"),
        ("compile", "/tmp/x.s: fatal error: error writing to x.o: No space left on device\n", 9,
         "No space left on device"),
        ("compile", "c++: fatal error: Killed signal terminated program cc1plus\n", 1, "--jobs 1"),
        ("configure", "-- ok\nCMake Error at CMakeLists.txt:5 (find_package):\n\n  Could NOT find X\n", 1,
         "Could NOT find X"),
        ("configure", "CMake Error at CMakeLists.txt:1:\n  CMake 9.9 or higher is required.\n", 8,
         "too old (expected 9.9"),
    ],
)  # fmt: skip
def test_failures_show_the_first_error(
    workshop, run_cli: Run, phase: str, log: str, code: int, words: str
) -> None:
    """The log is kept and named, and nothing passes for a build."""
    workshop.tell(f"{phase}.fail", log)
    got, _, err = run_cli("ollama-build", *workshop.args)
    assert got == code
    assert words in err
    assert "later" not in err
    assert finished(workshop.cache) == []
    (kept,) = workshop.cache.glob("builds/*/build.log")
    assert log.strip() in kept.read_text()
    if "whole log" in err:
        assert str(kept) in err


def test_a_disk_that_is_too_small(workshop, run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 9 before anything is copied, and how to use another disk."""
    monkeypatch.setattr("tqconvert.fs.free_bytes", lambda _: 100 << 20)
    code, _, err = run_cli("ollama-build", *workshop.args)
    assert code == 9
    assert "100 MiB free (expected 512 MiB for a build)" in err
    assert "TQCONVERT_CACHE" in err
    assert not list(workshop.cache.glob("builds/*/src"))


def test_a_source_without_a_target(workshop, run_cli: Run) -> None:
    """An old tree: the way out is named, and works."""
    workshop.tell("targets", "test-backend-ops: phony\ntest-quantize-fns: phony\n")
    code, _, err = run_cli("ollama-build", *workshop.args)
    assert code == 1
    assert "no target llama-server" in err
    assert "--ggml-only" in err
    assert run_cli("ollama-build", *workshop.args, "--ggml-only")[0] == 0


def test_a_failed_build_goes_on_where_it_was(workshop, run_cli: Run) -> None:
    """The patched copy is kept; what was changed in it by hand is made anew."""
    workshop.tell("compile.fail", "error: no")
    assert run_cli("ollama-build", *workshop.args)[0] == 1
    (src,) = workshop.cache.glob("builds/*/src")
    inode = src.stat().st_ino
    assert run_cli("ollama-build", *workshop.args)[0] == 1
    assert src.stat().st_ino == inode
    (src / "ggml/src/ggml-turbo.c").write_text("edited\n")
    assert run_cli("ollama-build", *workshop.args)[0] == 1
    assert (src / "ggml/src/ggml-turbo.c").read_text() == "int turbo;\n"
    (workshop.control / "compile.fail").unlink()
    assert run_cli("ollama-build", *workshop.args)[0] == 0


def test_a_damaged_build_is_built_anew(workshop, run_cli: Run) -> None:
    """A program that is gone or short makes it no build."""
    folder = Path(run_cli("ollama-build", *workshop.args, "-q")[1].strip())
    (folder / "bin" / "llama-bench").write_bytes(b"")
    assert list(list_runtimes(workshop.cache)) == []
    code, out, _ = run_cli("ollama-build", *workshop.args, "--json")
    assert (code, json.loads(out)["fresh"]) == (0, True)
    assert len(finished(workshop.cache)) == 1


@pytest.mark.slow
def test_killed_at_every_write_a_build_is_whole_or_absent(
    workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before, in and after each rename and file: the next run makes the build."""
    pristine = tmp_path / "pristine"
    shutil.copytree(workshop.tree, pristine / "tree")
    monkeypatch.setenv("TQCONVERT_CACHE", "cache")  # below the working folder, one for each state
    args = ["ollama-build", "build", "--ggml-only", "--source", "tree", "--jobs", "1"]
    args += ["--patches", str(workshop.patches)]
    found = states(pristine, tmp_path / "states", *args)
    assert len(found) > 8
    for state in found:
        folder = Path(state["folder"])
        whole = finished(folder / "cache")
        assert len(whole) <= 1, state
        done = subprocess.run(
            [sys.executable, "-m", "tqconvert", *args, "--json"], cwd=folder, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (state, done.stderr)
        assert json.loads(done.stdout)["fresh"] is (not whole), state
        assert len(finished(folder / "cache")) == 1


def start(workshop, *args: str) -> "subprocess.Popen[bytes]":
    """The command in a process of its own, come as far as its second compiler."""
    workshop.tell("compile.hold")
    process = subprocess.Popen(
        [sys.executable, "-m", "tqconvert", "ollama-build", *workshop.args, *args],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(600):
        if (workshop.control / "holding").exists():
            return process
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("never compiled")


def test_killed_while_compiling(workshop, run_cli: Run) -> None:
    """What compilers still run keep the lock: no second build works in the same folder beside them."""
    process = start(workshop)
    process.kill()
    process.wait()
    code, _, err = run_cli("ollama-build", *workshop.args)
    assert code == 7
    assert "another process works on it" in err
    assert finished(workshop.cache) == []
    (workshop.control / "compile.hold").unlink()
    for _ in range(200):
        if run_cli("ollama-build", *workshop.args)[0] == 0:
            break
        time.sleep(0.05)
    assert len(finished(workshop.cache)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_compiling(workshop, run_cli: Run, number: int) -> None:
    """Ctrl-C and SIGTERM end the compilers; the next run finishes."""
    process = start(workshop)
    assert run_cli("ollama-build", *workshop.args)[0] == 7
    process.send_signal(number)
    assert process.wait(30) == 130
    (workshop.control / "compile.hold").unlink()
    assert run_cli("ollama-build", *workshop.args)[0] == 0
    stop(process)


def test_whatis(workshop, run_cli: Run) -> None:
    """A program, its folder or the build's folder; a changed program is told."""
    folder = Path(run_cli("ollama-build", *workshop.args, "-q")[1].strip())
    for path in (folder, folder / "bin", folder / "bin" / "llama-server"):
        code, out, _ = run_cli("ollama-build", "whatis", path, "--json")
        assert (code, json.loads(out)["id"], json.loads(out)["changed"]) == (0, folder.name, [])
    (folder / "bin" / "llama-bench").write_text("other")
    code, _, err = run_cli("ollama-build", "whatis", folder)
    assert (code, err) == (1, "warning: not what was built: llama-bench\n")
    assert run_cli("ollama-build", "whatis", workshop.tree)[0] == 5
    assert run_cli("ollama-build", "whatis", folder / "none")[0] == 5
    (folder / "build.json").write_text("{}")
    assert run_cli("ollama-build", "whatis", folder)[0] == 4


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--target", "vllm"], "expected llama.cpp or ollama"),
        (["--target", "llama.cpp", "--tag", "v1"], "--target ollama alone"),
        (["--cpu", "fast"], "expected native or portable"),
        (["--cmake-arg", "GGML_X"], "expected NAME=VALUE"),
    ],
)
def test_usage(run_cli: Run, args: list[str], words: str) -> None:
    """Refused before anything else."""
    code, _, err = run_cli("ollama-build", "build", *args)
    assert code == 2
    assert words in err
