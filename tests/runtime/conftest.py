"""A small tree and series, and programs on PATH that play cmake, ninja and compilers."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TREE = {
    "CMakeLists.txt": "project(llama.cpp)\n",
    "ggml/CMakeLists.txt": "project(ggml)\n",
    "ggml/include/ggml.h": "#pragma once\nenum { COUNT = 43 };\nint x;\n",
    "tools/server/server.cpp": "int main() {}\n",
    "docs/page.md": "not read\n",
    "models/vocab.gguf": "not read\n",
    "build/old.o": "not read\n",
}
PATCH = (
    "Subject: types\nOrigin: tqconvert\nWhy: test\nDrop-when: never\n\n"
    "diff --git a/ggml/include/ggml.h b/ggml/include/ggml.h\n--- a/ggml/include/ggml.h\n"
    "+++ b/ggml/include/ggml.h\n@@ -1,3 +1,3 @@\n #pragma once\n"
    "-enum { COUNT = 43 };\n+enum { COUNT = 64 };\n int x;\n"
)

CMAKE = """
import os, sys, time
from pathlib import Path
control, args = Path(os.environ["FAKE"]), sys.argv[1:]
def tell(text):
    with (control / "calls").open("a") as f:
        print(text, file=f)
def hold(name):
    while (control / name).exists():
        (control / "holding").touch()
        time.sleep(0.01)
def fail(name):
    if (control / name).exists():
        print((control / name).read_text())
        sys.exit(1)
if "-B" in args:
    tell("configure " + " ".join(a for a in args if a.startswith("-D")))
    build = Path(args[args.index("-B") + 1])
    build.mkdir(parents=True, exist_ok=True)
    fail("configure.fail")
    sys.exit()
build = Path(args[args.index("--build") + 1])
names = args[args.index("--target") + 1:]
if names == ["help"]:
    print("All primary targets available:\\n" + (control / "targets").read_text())
    sys.exit()
tell("build " + " ".join(names))
(build / "bin").mkdir(exist_ok=True)
for i, name in enumerate(names, start=1):
    print(f"[{i}/{len(names)}] Building CXX object {name}.cpp.o", flush=True)
    if i == 2:
        hold("compile.hold")
        fail("compile.fail")
    text = (control / "server.py").read_text() if name == "llama-server" else "#!/bin/sh\\n"
    (build / "bin" / name).write_text(text)
    (build / "bin" / name).chmod(0o755)
"""

SERVER = """
import json, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
args = sys.argv[1:]
if args == ["--version"]:
    print("version: 0")
    sys.exit()
model = args[args.index("-m") + 1]
if "broken" in model:
    print("llama_model_load: error loading model: broken", flush=True)
    sys.exit(1)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"args": args, "body": json.loads(body)}).encode())
    def log_message(self, *args):
        pass
def end(*args):
    print("ended cleanly", flush=True)
    sys.exit(0)
server = HTTPServer(("127.0.0.1", int(args[args.index("--port") + 1])), Handler)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("0.00.1 I llama_kv_cache: size =   52.00 MiB (  2048 cells,   3 layers,  1/1 seqs), "
      "K (q8_0):   34.00 MiB, V (turbo4):   18.00 MiB", flush=True)
server.serve_forever()
"""

TARGETS = (
    "llama-server", "llama-perplexity", "llama-bench", "llama-quantize", "test-backend-ops",
    "test-quantize-fns", "llama-cli", "test-turbo", "test-turbo-pairs", "llama-kv-stats",
)  # fmt: skip


def write_program(path: Path, body: str) -> None:
    """An executable Python script."""
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)


@dataclass(frozen=True)
class Workshop:
    """Folders of one test: tree and series to build from, cache, and the programs' control."""

    tree: Path
    patches: Path
    cache: Path
    control: Path
    bin: Path

    @property
    def calls(self) -> list[str]:
        """What cmake was asked to do; the flags are left out."""
        path = self.control / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split(" ", 1)[0] for line in lines]

    @property
    def args(self) -> tuple[str, ...]:
        """Arguments of `ollama-build` that build this tree."""
        return ("build", "--source", str(self.tree), "--patches", str(self.patches), "--jobs", "1")

    def tell(self, name: str, text: str = "") -> None:
        """Make the programs do something: `compile.fail`, `compile.hold`, `configure.fail`."""
        (self.control / name).write_text(text)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Everything that a build needs, in small."""
    shop = Workshop(*(tmp_path / n for n in ("tree", "patches", "cache", "control", "bin")))
    for name, text in TREE.items():
        path = shop.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (shop.patches / "llama.cpp").mkdir(parents=True)
    (shop.patches / "files" / "ggml" / "src").mkdir(parents=True)
    (shop.patches / "llama.cpp" / "series").write_text("types.patch [ggml]\n")
    (shop.patches / "llama.cpp" / "types.patch").write_text(PATCH)
    (shop.patches / "files" / "ggml" / "src" / "ggml-turbo.c").write_text("int turbo;\n")
    shop.control.mkdir()
    shop.bin.mkdir()
    write_program(shop.control / "server.py", SERVER)
    write_program(shop.bin / "cmake", CMAKE)
    for name in ("cc", "c++"):
        write_program(shop.bin / name, f"print('fake {name} 1.0')\n")
    write_program(shop.bin / "ninja", "raise SystemExit(1)\n")
    git = shutil.which("git")
    assert git
    os.symlink(git, shop.bin / "git")
    shop.tell("targets", "\n".join(f"{name}: phony" for name in TARGETS))
    monkeypatch.setenv("PATH", str(shop.bin))
    monkeypatch.setenv("FAKE", str(shop.control))
    monkeypatch.setenv("TQCONVERT_CACHE", str(shop.cache))
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CPPFLAGS"):
        monkeypatch.delenv(name, raising=False)
    return shop
