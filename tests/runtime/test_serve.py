"""`serve` and `start_server`: what is started, what it says beforehand, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import keys_of, tiny_gguf
from conftest import free_port, stop, wait_for

from tqconvert.errors import ServerFailedError
from tqconvert.runtime.locate import find_runtime
from tqconvert.runtime.server import KvBuffer, parse_kv_buffers, start_server

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def built(workshop, run_cli: Run) -> Path:
    """Folder of a build whose server is a fake that tells its arguments."""
    code, out, err = run_cli("ollama-build", *workshop.args, "-q")
    assert code == 0, err
    return Path(out.strip())


@pytest.fixture
def model(tmp_path: Path, run_cli: Run) -> Path:
    """A model with tags: K q8_0, V turbo4."""
    path = tiny_gguf(tmp_path / "m.gguf")
    assert run_cli("tag", path)[0] == 0
    return path


def planned(run_cli: Run, *args: object) -> dict:
    """The document of a dry run."""
    code, out, err = run_cli("serve", "--dry-run", "--json", *args)
    assert code == 0, out + err
    return json.loads(out)


def test_tags_need_no_flags(built: Path, model: Path, run_cli: Run) -> None:
    """The runtime reads them by itself; the types and the memory are told."""
    document = planned(run_cli, model, "--ctx", "4k")
    assert document["command"] == [
        str(built / "bin" / "llama-server"), "-m", str(model), "-c", "4096", "-np", "1",
        "--host", "127.0.0.1", "--port", "8080",
    ]  # fmt: skip
    assert (document["type_k"], document["type_v"]) == ("q8_0", "turbo4")
    assert document["types_from"] == "tag"
    rows = json.loads(run_cli("plan", model, "--ctx", "4k", "--json")[1])["rows"]
    (tagged,) = [r for r in rows if r["origin"] == "tagged"]
    assert document["kv_bytes"] == tagged["kv_bytes"]
    assert document["total_bytes"] > document["kv_bytes"] + document["weights_bytes"]


def test_a_flag_goes_before_the_tag_of_its_side(built: Path, model: Path, run_cli: Run) -> None:
    """The other side keeps its tag."""
    document = planned(run_cli, model, "--ctx", "4k", "--type-k", "f16")
    assert document["command"][-2:] == ["-ctk", "f16"]
    assert (document["type_k"], document["type_v"]) == ("f16", "turbo4")
    document = planned(run_cli, model, "--ctx", "4k", "--type-v", "q4_0")
    assert (document["type_k"], document["type_v"]) == ("q8_0", "q4_0")


def test_types_by_layer_are_kept(built: Path, tmp_path: Path, run_cli: Run) -> None:
    """A tag with one type for each layer, and a flag for the other side."""
    path = tiny_gguf(tmp_path / "m.gguf", keys_of("llama", block_count=2, embedding_length=256,
                                                  attention__head_count=2))  # fmt: skip
    assert run_cli("tag", path, "--type-k", "q8_0,f16", "--type-v", "turbo4")[0] == 0
    document = planned(run_cli, path, "--ctx", "4k", "--type-v", "q8_0")
    assert (document["type_k"], document["type_v"]) == (["q8_0", "f16"], "q8_0")


def test_slots_and_further_arguments(built: Path, model: Path, run_cli: Run) -> None:
    """-c is that of all slots; what stands after -- comes last."""
    document = planned(run_cli, model, "--ctx", "4k", "--parallel", "3", "--", "-t", "2", "--jinja")
    command = document["command"]
    assert command[command.index("-c") + 1] == "12288"
    assert command[command.index("-np") + 1] == "3"
    assert command[-3:] == ["-t", "2", "--jinja"]


def test_a_model_of_the_store_goes_by_its_name(
    built: Path, model: Path, tmp_path: Path, run_cli: Run
) -> None:
    """llama-server gets the blob, and the name as its alias."""
    assert run_cli("install", model, "--as", "mine")[0] == 0
    command = planned(run_cli, "mine", "--ctx", "4k")["command"]
    assert command[-2:] == ["--alias", "mine:latest"]
    assert Path(command[2]).parent.name == "blobs"


def test_types_that_cannot_be_used(built: Path, tmp_path: Path, run_cli: Run) -> None:
    """From a flag: an error with the dimension. From a tag: a note, and f16 on that side."""
    keys = keys_of("llama", block_count=2, embedding_length=256, attention__head_count=4)
    path = tiny_gguf(tmp_path / "m.gguf", keys)
    code, _, err = run_cli("serve", path, "--type-v", "turbo4", "--dry-run")
    assert code == 2
    assert "does not divide head dimension 64" in err
    assert run_cli("serve", path, "--type-v", "turbo5", "--dry-run")[0] == 2
    named = {"general.kv_cache.type_k": "q8_0", "general.kv_cache.type_v": "turbo4"}
    document = planned(run_cli, tiny_gguf(tmp_path / "t.gguf", {**keys, **named}), "--ctx", "4k")
    assert (document["type_k"], document["type_v"]) == ("q8_0", "f16")
    assert any("f16 instead" in note for note in document["notes"])


def test_an_unpatched_runtime_is_told(workshop, model: Path, run_cli: Run) -> None:
    """It ignores tags, and refuses turbo types."""
    (workshop.patches / "llama.cpp" / "series").write_text("")
    assert run_cli("ollama-build", *workshop.args)[0] == 0
    document = planned(run_cli, model, "--ctx", "4k")
    assert (document["type_k"], document["type_v"]) == ("f16", "f16")
    assert any("ignores the file's tags" in note for note in document["notes"])
    code, _, err = run_cli("serve", model, "--type-v", "turbo4", "--dry-run")
    assert code == 2
    assert "built without the turbo types" in err


def test_what_does_not_fit_is_told(
    built: Path, model: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started all the same: the weights are mapped."""
    monkeypatch.setattr("tqconvert.runtime.serve.available_memory", lambda: 2**20)
    (note,) = planned(run_cli, model, "--ctx", "4k")["notes"]
    assert note == "more than the 1.0 MiB of memory that are available now"


def test_an_unknown_architecture_is_an_upper_bound(
    built: Path, tmp_path: Path, run_cli: Run
) -> None:
    """As in `plan`."""
    keys = keys_of("newmodel", block_count=2, embedding_length=256, attention__head_count=2)
    notes = planned(run_cli, tiny_gguf(tmp_path / "n.gguf", keys), "--ctx", "4k")["notes"]
    assert any(note.startswith("upper bound") for note in notes)


def test_no_runtime(workshop, model: Path, run_cli: Run) -> None:
    """The hint is the command that builds one."""
    code, _, err = run_cli("serve", model)
    assert code == 5
    assert "tqconvert ollama-build build --target llama.cpp --source sdist" in err


def test_which_runtime_is_used(
    workshop,
    built: Path,
    model: Path,
    tmp_path: Path,
    run_cli: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--runtime, TQCONVERT_RUNTIME, the build asked for last; not one for another processor."""
    (workshop.tree / "ggml/CMakeLists.txt").write_text("newer\n")
    newer = Path(run_cli("ollama-build", *workshop.args, "-q")[1].strip())
    assert find_runtime(workshop.cache).folder == newer
    (workshop.tree / "ggml/CMakeLists.txt").write_text("project(ggml)\n")
    assert run_cli("ollama-build", *workshop.args)[0] == 0  # built before, asked for last
    assert find_runtime(workshop.cache).folder == built
    document = json.loads((newer / "build.json").read_text())
    document["cpu"]["id"] = "other"
    (newer / "build.json").write_text(json.dumps(document))
    assert find_runtime(workshop.cache).folder == built
    own = tmp_path / "own"
    own.mkdir()
    (own / "llama-server").symlink_to(built / "bin" / "llama-server")
    assert planned(run_cli, model, "--runtime", own)["command"][0] == str(own / "llama-server")
    monkeypatch.setenv("TQCONVERT_RUNTIME", str(newer))
    assert planned(run_cli, model)["command"][0] == str(newer / "bin" / "llama-server")
    code, _, err = run_cli("serve", model, "--runtime", tmp_path / "none", "--dry-run")
    assert code == 5
    assert "has no llama-server" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_until_ctrl_c(built: Path, model: Path, number: int) -> None:
    """The server answers; it ends before the command does, which has exit code 0; a closed terminal too."""
    port = free_port()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    process = subprocess.Popen(
        [sys.executable, "-m", "tqconvert", "serve", str(model), "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGHUP, before)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        stop(process)
    assert process.returncode == 0
    assert out.startswith(
        f"serving {model}\n  address  http://127.0.0.1:{port}\n  cache    K q8_0, V turbo4"
    )
    assert "ended cleanly" in err
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_a_server_that_fails(built: Path, tmp_path: Path, run_cli: Run) -> None:
    """Exit 1; its own words stand above."""
    code, _, err = run_cli("serve", tiny_gguf(tmp_path / "broken.gguf"), "--port", free_port())
    assert code == 1
    assert "llama-server: ended with 1" in err


def test_an_open_address_is_warned_of(built: Path, model: Path, run_cli: Run) -> None:
    """There is no password."""
    err = run_cli("serve", model, "--host", "0.0.0.0", "--dry-run")[2]
    assert "warning: whoever reaches http://0.0.0.0:8080 can use the model" in err


def test_start_server(built: Path, model: Path, tmp_path: Path) -> None:
    """Ready inside of the block, its log parsed; gone after it, by exception too."""
    program = find_runtime(built.parents[1]).program("llama-server")
    log = tmp_path / "server.log"
    with (
        pytest.raises(ZeroDivisionError),
        start_server(
            program, model, env=os.environ, log=log, n_ctx=512, args=["-t", "2"]
        ) as server,
    ):
        answer = server.ask("/completion", {"prompt": "x"})
        assert answer["args"][:4] == ["-m", str(model), "-c", "512"]
        assert answer["args"][-2:] == ["-t", "2"]
        assert server.kv_buffers == (KvBuffer(2048, 3, 1, "q8_0", "turbo4", 52.0, 34.0, 18.0),)
        pid = server.pid
        1 / 0  # noqa: B018
    assert "ended cleanly" in log.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_start_server_that_never_starts(built: Path, tmp_path: Path) -> None:
    """The error has the server's reason and the log."""
    program, log = find_runtime(built.parents[1]).program("llama-server"), tmp_path / "server.log"
    with (
        pytest.raises(ServerFailedError, match="error loading model: broken") as caught,
        start_server(program, tmp_path / "broken.gguf", env=os.environ, log=log),
    ):
        pass
    assert str(log) in str(caught.value.hint)


def test_logs_of_llama_cpp_are_read() -> None:
    """Two caches of a model with windows, as the log of b10434 has them; what is else in it is not."""
    log = (
        "0.01.234.567 I llama_kv_cache: layer   0: dev = CPU\n"
        "llama_kv_cache: size =   96.00 MiB ( 32768 cells,   3 layers,  1/1 seqs), "
        "K (f16):   48.00 MiB, V (f16):   48.00 MiB\n"
        "llama_kv_cache: size =   15.00 MiB (  1024 cells,  15 layers,  1/1 seqs), "
        "K (q8_0):    7.50 MiB, V (turbo4):    7.50 MiB\n"
        "llama_kv_cache: attn_rot_k = 0\n"
    )
    first, second = parse_kv_buffers(log)
    assert first == KvBuffer(32768, 3, 1, "f16", "f16", 96.0, 48.0, 48.0)
    assert (second.cells, second.n_layers, second.type_v, second.v_mib) == (1024, 15, "turbo4", 7.5)
