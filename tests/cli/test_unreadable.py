"""Files and stores that this user may not read, as those of Ollama's own service often are."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import tiny_gguf

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Run) -> Iterator[Path]:
    """A store and, in it, a GGUF; nobody may look into the store."""
    store = tmp_path / "store"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    assert run_cli("install", tiny_gguf(tmp_path / "m.gguf"), "--as", "tiny:1b")[0] == 0
    tiny_gguf(store / "x.gguf")
    (tmp_path / "no.gguf").write_bytes(b"x")
    (tmp_path / "no.gguf").chmod(0)
    store.chmod(0)
    if os.access(tmp_path / "no.gguf", os.R_OK):
        store.chmod(0o755)
        pytest.skip("needs a user who is not root")
    yield store
    store.chmod(0o755)


@pytest.mark.parametrize(
    "args",
    [
        *(f"{c} {x}" for c in ("inspect", "plan", "verify", "modelfile")
          for x in ("tiny:1b", "store/x.gguf", "no.gguf")),
        *(f"{c} {x}" for c in ("tag", "untag") for x in ("store/x.gguf", "no.gguf")),
        "install store/x.gguf --as a:1 --store other", "install no.gguf --as a:1 --store other",
        "install m.gguf --as a:1", "install --remove tiny:1b", "share --listen 127.0.0.1:0",
        "cache prune", "pull no.gguf --store other", "pull store/x.gguf --store other",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("closed")
def test_what_may_not_be_read_is_an_io_error(run_cli: Run, args: str) -> None:
    """Exit 9 with the place, whatever the command; never a bug."""
    code, _, err = run_cli(*args.split())
    assert (code, "Traceback" in err) == (9, False), err
    assert "store" in err or "no.gguf" in err


@pytest.mark.usefixtures("closed")
def test_doctor_says_it(run_cli: Run) -> None:
    """Exit 1, with the store as what is in the way."""
    code, out, _ = run_cli("doctor", "--offline")
    assert code == 1
    assert "in the way: store" in out
