"""`doctor`: what it finds, what it never says, and that it changes nothing."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tqconvert.doctor import server_address, shorten


@pytest.fixture
def ollama() -> Iterator[str]:
    """A server on loopback that answers as Ollama does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"version":"0.19.0"}' if self.path == "/api/version" else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def checks(out: str) -> dict[str, dict[str, Any]]:
    """The checks of a JSON report by name."""
    return {c["name"]: c for c in json.loads(out)["checks"]}


def tree(folder: Path) -> dict[str, int]:
    """All names below the folder with their times."""
    return {str(p): p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]}


def test_report_names_everything(run_cli: Any, tmp_path: Path) -> None:
    """A healthy machine: every check is there, exit 0, and it says that nothing was changed."""
    code, out, err = run_cli("doctor", "--store", tmp_path, "--offline", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "tqconvert.doctor/1"
    assert (document["ok"], document["changed"]) == (True, False)
    assert list(checks(out)) == [
        "tqconvert", "Python", "packages", "configuration", "store", "free space", "file system",
        "partial downloads", "memory", "proxies", "environment", "ollama program",
        "ollama server",
    ]  # fmt: skip
    code, out, _ = run_cli("doctor", "--store", tmp_path, "--offline")
    assert out.splitlines()[0].split() == ["check", "status", "detail"]
    assert out.endswith("nothing is in the way; nothing was changed\n")
    assert run_cli("doctor", "--store", tmp_path, "--offline", "-q") == (0, "", "")


def test_nothing_is_changed(run_cli: Any, tmp_path: Path) -> None:
    """Neither a store that is there nor one that is not gets a file or folder."""
    for store in (tmp_path, tmp_path / "none" / "yet"):
        before = sorted(tree(tmp_path))
        assert run_cli("doctor", "--store", store, "--offline")[0] == 0
        assert sorted(tree(tmp_path)) == before


def test_server_and_program_are_found(
    run_cli: Any, tmp_path: Path, ollama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running server tells its version, and the program on PATH too."""
    program = tmp_path / "ollama"
    program.write_text(
        "#!/bin/sh\necho 'Warning: could not connect'\necho client version is 0.19.0\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    found = checks(run_cli("doctor", "--json")[1])
    assert found["ollama server"]["detail"] == f"http://{ollama}: version 0.19.0"
    assert found["ollama program"]["detail"] == f"{program}, version 0.19.0"


def test_server_that_is_away_is_only_a_note(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is no failure; --offline does not even ask."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    code, out, _ = run_cli("doctor", "--json")
    assert code == 0
    assert checks(out)["ollama server"]["detail"] == "http://127.0.0.1:1: no answer"
    assert (
        "offline" in checks(run_cli("doctor", "--offline", "--json")[1])["ollama server"]["detail"]
    )


def test_store_that_cannot_be_used(run_cli: Any, tmp_path: Path) -> None:
    """A store below a plain file fails: exit 1, the fix is named, -q names the check."""
    (tmp_path / "file").touch()
    store = tmp_path / "file" / "models"
    code, out, _ = run_cli("doctor", "--store", store, "--offline")
    assert code == 1
    assert "is no folder" in out
    assert "store: set OLLAMA_MODELS" in out
    assert "in the way: store; nothing was changed" in out
    assert run_cli("doctor", "--store", store, "--offline", "-q") == (1, "store\n", "")
    assert json.loads(run_cli("doctor", "--store", store, "--offline", "--json")[1])["ok"] is False


@pytest.mark.parametrize("text", ["connections = 'many'", "colour = 1", "= broken"])
def test_bad_configuration_is_reported_not_fatal(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """A configuration file that does not parse is one failing check among the others."""
    (tmp_path / "tqconvert.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli("doctor", "--offline", "--json")
    assert code == 1
    assert checks(out)["configuration"]["status"] == "fail"
    assert "tqconvert.toml" in checks(out)["configuration"]["detail"]
    assert checks(out)["memory"]["status"] == "ok"


def test_partial_downloads_are_counted(run_cli: Any, tmp_path: Path) -> None:
    """What an interrupted pull left is named with its size and the command that removes it."""
    folder = tmp_path / ".tqconvert" / "partial"
    folder.mkdir(parents=True)
    (folder / f"{'a' * 64}.partial").write_bytes(bytes(1 << 20))
    check = checks(run_cli("doctor", "--store", tmp_path, "--offline", "--json")[1])[
        "partial downloads"
    ]
    assert check["detail"] == "1 unfinished, 1.0 MiB"
    assert "cache prune" in check["fix"]


def test_no_secret_and_no_home_is_shown(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and passwords stay out of the report, the home folder is ~."""
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("TQCONVERT_API_KEY", "verysecret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:verysecret@proxy.example:3128")
    monkeypatch.setenv("OLLAMA_HOST", "https://u:verysecret@127.0.0.1:1")
    for form in ((), ("--json",)):
        code, out, err = run_cli("doctor", "--offline", *form)
        assert code == 0
        assert "verysecret" not in out + err
        assert os.environ["HOME"] not in out
        assert "~/models" in out
        assert "proxy.example:3128" in out
        assert "HF_TOKEN=(set)" in out


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", ("http", "127.0.0.1", 11434)),
        ("0.0.0.0", ("http", "127.0.0.1", 11434)),
        ("0.0.0.0:8080", ("http", "127.0.0.1", 8080)),
        (":8080", ("http", "127.0.0.1", 8080)),
        ("example.com", ("http", "example.com", 11434)),
        ("http://example.com", ("http", "example.com", 80)),
        ("https://example.com/path", ("https", "example.com", 443)),
        ("https://example.com:8443", ("https", "example.com", 8443)),
        ("[::1]:8080", ("http", "::1", 8080)),
        ("[::]", ("http", "::1", 11434)),
        ("::1", ("http", "::1", 11434)),
        ("host:99999", ("http", "host", 11434)),
        ('"host"', ("http", "host", 11434)),
    ],
)
def test_ollama_host_is_read_as_ollama_does(text: str, address: tuple[str, str, int]) -> None:
    """The cases of Ollama's envconfig/config_test.go, wildcards turned into loopback."""
    assert server_address(text) == address


def test_shorten() -> None:
    """Only the home folder itself becomes ~, not folders whose names begin like it."""
    assert shorten("/home/me/x, /home/me", "/home/me") == "~/x, ~"
    assert shorten("/home/mead/x", "/home/me") == "/home/mead/x"
    assert shorten("/x", "/") == "/x"
    assert shorten("http://u:p@h/", "") == "http://***@h/"
