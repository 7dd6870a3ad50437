"""What a registry does to an upload, and what `push` makes of it."""

import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import LLAMA, gguf_bytes
from fakepush import PushRegistry
from stores import put_model, sha256

from tqconvert.registry.oci import OciRegistry

Cli = Callable[..., tuple[int, str, str]]
PATH = "registry.ollama.ai/library/tiny/1b"
MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 1800)})
"""7 MB: more than goes with one request."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[PushRegistry]:
    """A registry that takes everything; waits between tries are left out."""
    real = OciRegistry.__init__
    monkeypatch.setattr(
        OciRegistry, "__init__",
        lambda self, *a, **k: real(self, *a, **{**k, "sleep": lambda _: None}),
    )  # fmt: skip
    with PushRegistry() as running:
        yield running


@pytest.fixture
def push(registry: PushRegistry, tmp_path: Path, run_cli: Cli) -> Callable[..., Any]:
    """Push the model to me/tiny:1b in chunks of 1 MiB: (exit code, document)."""
    put_model(tmp_path / "store", PATH, MODEL, license="MIT")

    def run(*args: str, dest: str = "me/tiny:1b") -> tuple[int, dict[str, Any]]:
        code, out, _ = run_cli(
            "push", "tiny:1b", f"{registry.host}/{dest}", "--store", tmp_path / "store",
            "--chunk", "1MiB", "--json", *args,
        )  # fmt: skip
        return code, json.loads(out)

    return run


def landed(registry: PushRegistry, repository: str = "me/tiny") -> bool:
    """Whether the model is there, whole, and its manifest is the store's own."""
    return registry.complete(repository) and registry.blobs[repository][sha256(MODEL)] == MODEL


def test_chunks_go_one_after_the_other(registry: PushRegistry, push: Any) -> None:
    """HEAD first, then chunks, a PUT with the digest, and the manifest last."""
    code, document = push()
    assert (code, document["state"], document["retries"]) == (0, "pushed", 0)
    assert landed(registry)
    assert len(registry.asked("PATCH")) == 8
    methods = [m for m, _, _ in registry.requests]
    assert methods.index("HEAD") < methods.index("POST") < methods.index("PATCH")
    assert "/manifests/" in registry.requests[-1][1]
    assert document["sent_bytes"] == document["bytes"] == registry.received


def test_a_second_push_sends_nothing(registry: PushRegistry, push: Any) -> None:
    """Exit 0, "unchanged", and nothing but HEAD is asked."""
    push()
    del registry.requests[:]
    code, document = push()
    assert (code, document["state"], document["bytes"]) == (0, "unchanged", 0)
    assert {m for m, _, _ in registry.requests} == {"HEAD"}


def test_a_dry_run_changes_nothing(registry: PushRegistry, push: Any) -> None:
    """It tells the bytes that would go, and the tags of all forms."""
    code, document = push("--dry-run", "--form", "all")
    assert code == 0
    assert document["send_bytes"] == sum(b["bytes"] for b in document["blobs"]) > len(MODEL)
    assert [m["reference"].rpartition(":")[2] for m in document["manifests"]] == [
        "1b", "1b-oci", "1b-modelpack", "1b-docker",
    ]  # fmt: skip
    assert {m for m, _, _ in registry.requests} == {"HEAD"}
    assert registry.blobs == {}


def test_cuts_are_gone_on_from(registry: PushRegistry, push: Any) -> None:
    """What arrived of a chunk is not sent again where the registry keeps it."""
    registry.faults.cut_at = [700_000, 10_000, 900_000]
    code, document = push()
    assert code == 0, document
    assert document["retries"] == 3
    assert landed(registry)
    assert registry.received == sum(b["bytes"] for b in document["blobs"])


def test_an_upload_that_the_registry_gave_up_begins_anew(registry: PushRegistry, push: Any) -> None:
    """As docker-registry does after a cut within a chunk."""
    registry.faults.cut_at, registry.faults.forget_uploads = [700_000], True
    code, _ = push()
    assert code == 0
    assert landed(registry)


def test_cuts_without_an_end_are_given_up(registry: PushRegistry, push: Any) -> None:
    """After the retries of the settings, with exit 11; nothing is announced."""
    registry.faults.cut_at, registry.faults.forget_uploads = [100_000] * 50, True
    code, document = push()
    assert (code, document["error"]["kind"]) == (11, "network")
    assert "gave up after 6 retries" in document["error"]["message"]
    assert registry.manifests["me/tiny"] == {}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_busy_registries_are_asked_again(registry: PushRegistry, push: Any, status: int) -> None:
    """5xx and 429, for chunks and for the manifest."""
    registry.faults.status, registry.faults.manifest_status = [status] * 3, [status]
    code, document = push()
    assert code == 0
    assert document["retries"] == 3
    assert landed(registry)


def test_an_answer_that_is_lost_costs_no_second_upload(registry: PushRegistry, push: Any) -> None:
    """The blob has its name already: HEAD tells."""
    registry.faults.lose_answer = True
    code, document = push()
    assert (code, document["retries"]) == (0, 1)
    assert registry.received == sum(b["bytes"] for b in document["blobs"])


def test_a_registry_that_gets_nowhere_is_an_error(registry: PushRegistry, push: Any) -> None:
    """It takes chunks and says that none arrived: not an endless loop."""
    registry.faults.stuck = True
    code, document = push()
    assert (code, document["error"]["kind"]) == (11, "protocol")
    assert registry.received < 3 << 20


def test_chunks_are_as_large_as_the_registry_wants_them(registry: PushRegistry, push: Any) -> None:
    """OCI-Chunk-Min-Length, also after failures."""
    registry.faults.min_chunk, registry.faults.status = 3 << 20, [503, 503, 503]
    assert push()[0] == 0
    assert landed(registry)
    sizes = [int(h["Content-Length"]) for m, _, h in registry.requests if m == "PATCH"]
    assert min(sizes[:-1]) == 3 << 20


def test_what_an_earlier_push_sent_was_something_else(
    registry: PushRegistry, push: Any, tmp_path: Path
) -> None:
    """The blob was damaged when it was interrupted, and is whole now: all of it goes again, by itself."""
    code, document = push()
    assert code == 0
    notes = Path(os.environ["HOME"]) / ".cache/tqconvert/push"
    ident = "0" * 32
    registry.uploads[ident] = bytearray(b"x" * (2 << 20))
    place = f"{registry.host}/me/other"
    name = hashlib.sha256(f"{place}@{sha256(MODEL)}".encode()).hexdigest()
    url = f"http://{registry.host}/v2/me/other/blobs/uploads/{ident}?_state=x"
    (notes / f"{name}.session").write_text(url)
    registry.faults.no_mounts = True
    code, document = push(dest="me/other:1b")
    assert code == 0, document
    assert landed(registry, "me/other")
    assert (document["retries"], document["resumed_from"]) == (1, 0)
    assert list(notes.glob("*.session")) == []


def test_chunks_become_smaller_after_413(registry: PushRegistry, push: Any) -> None:
    """A proxy that takes 2 MiB at a time is found out, not reported."""
    registry.faults.max_body = 2 << 20
    code, _ = push("--chunk", "64MiB")
    assert code == 0
    assert landed(registry)
    sizes = {int(h["Content-Length"]) for m, _, h in registry.requests if m == "PATCH"}
    assert max(sizes) > 2 << 20
    assert 1 << 20 in sizes


def test_a_limit_below_the_smallest_chunk_is_an_error(registry: PushRegistry, push: Any) -> None:
    """With the words of the registry, and what to do about it."""
    registry.faults.max_body = 1000
    code, document = push()
    assert (code, document["error"]["kind"]) == (11, "too_large")
    assert "says too_large" in document["error"]["message"]
    assert registry.manifests["me/tiny"] == {}


def test_a_registry_without_chunks_gets_one_piece(registry: PushRegistry, push: Any) -> None:
    """PATCH refused with 405: one PUT takes the whole."""
    registry.faults.no_chunks = True
    code, _ = push()
    assert code == 0
    assert landed(registry)
    assert len(registry.asked("PATCH")) == 1


def test_locations_without_a_host(registry: PushRegistry, push: Any) -> None:
    """RFC 9110 allows them."""
    registry.faults.relative = True
    assert push()[0] == 0
    assert landed(registry)


def test_another_repository_of_the_registry_gives_the_blob(
    registry: PushRegistry, push: Any
) -> None:
    """A mount for what an earlier push brought: no byte of it goes again."""
    push()
    before = registry.received
    code, document = push(dest="other/deep/name:2")
    assert code == 0
    assert landed(registry, "other/deep/name")
    assert registry.received == before
    assert document["bytes_mounted"] >= len(MODEL)
    assert {b["mounted_from"] for b in document["blobs"]} == {"me/tiny"}


def test_a_mount_that_is_refused_becomes_an_upload(registry: PushRegistry, push: Any) -> None:
    """202 to the mount is an upload that has begun already."""
    push()
    registry.faults.no_mounts = True
    code, document = push(dest="other/tiny:1b")
    assert (code, document["bytes_mounted"]) == (0, 0)
    assert landed(registry, "other/tiny")
    assert registry.uploads == {}


def test_a_damaged_blob_is_not_pushed(registry: PushRegistry, push: Any, tmp_path: Path) -> None:
    """Right size, wrong bytes, sound GGUF: found before the blob gets its name."""
    blob = tmp_path / "store/blobs" / sha256(MODEL).replace(":", "-")
    data = bytearray(MODEL)
    data[-100] ^= 1
    blob.write_bytes(data)
    code, document = push()
    assert (code, document["error"]["kind"]) == (4, "digest_mismatch")
    assert sha256(MODEL) not in registry.blobs.get("me/tiny", {})
    assert registry.manifests["me/tiny"] == {}
    assert registry.uploads == {}


@pytest.mark.parametrize("cut", [len(MODEL) // 2, 100])
def test_a_truncated_gguf_is_not_pushed(
    registry: PushRegistry, push: Any, tmp_path: Path, cut: int
) -> None:
    """Nothing is asked of the registry before the bounds are checked."""
    put_model(tmp_path / "store", PATH, MODEL[:cut])
    code, document = push()
    assert (code, document["error"]["kind"]) == (4, "truncated_gguf")
    assert registry.requests == []


def test_a_missing_blob_is_named(registry: PushRegistry, push: Any, tmp_path: Path) -> None:
    """Exit 5."""
    (tmp_path / "store/blobs" / sha256(b"MIT").replace(":", "-")).unlink()
    code, document = push()
    assert (code, document["error"]["kind"]) == (5, "not_found")
    assert "license blob of tiny:1b is missing" in document["error"]["message"]


def test_a_registry_that_makes_something_else_of_it(registry: PushRegistry, push: Any) -> None:
    """Another digest for a blob or a manifest than ours is an error."""
    registry.faults.wrong_digest = True
    code, document = push()
    assert (code, document["error"]["kind"]) == (11, "protocol")
    registry.faults.wrong_digest, registry.faults.rewrite_manifest = False, True
    code, document = push()
    assert (code, document["error"]["kind"]) == (11, "protocol")
    assert "of the manifest" in document["error"]["message"]


def test_a_read_only_registry(registry: PushRegistry, push: Any) -> None:
    """405: exit 12, as what the server does not permit."""
    registry.faults.read_only = True
    code, document = push()
    assert (code, document["error"]["kind"]) == (12, "auth")
    assert "takes no uploads" in document["error"]["message"]


def docker_config(**value: Any) -> Path:
    """Write ~/.docker/config.json."""
    path = Path(os.environ["HOME"]) / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def auth(text: str = "me:hunter2") -> dict[str, str]:
    """An entry of `auths`."""
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("bearer", [False, True], ids=["Basic", "Bearer"])
def test_the_password_of_docker_login(registry: PushRegistry, push: Any, bearer: bool) -> None:
    """Refused without it, with the next step; accepted with it; for pulls likewise."""
    registry.faults.password, registry.faults.bearer = "hunter2", bearer
    code, document = push()
    assert (code, document["error"]["kind"]) == (12, "auth")
    assert document["error"]["hint"] == f"docker login {registry.host}"
    docker_config(auths={registry.host: auth()})
    assert push()[0] == 0
    assert landed(registry)
    docker_config(auths={registry.host: auth("me:wrong")})
    code, document = push()
    assert (code, document["error"]["kind"]) == (12, "auth")
    assert "hunter2" not in json.dumps(document)


def test_docker_config_says_where(
    registry: PushRegistry, push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DOCKER_CONFIG is the folder; old forms of a registry's name are known."""
    registry.faults.password = "hunter2"
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(
        json.dumps({"auths": {f"https://{registry.host}/v1/": auth()}})
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    assert push()[0] == 0


def helper(folder: Path, body: str, name: str = "test") -> None:
    """A program docker-credential-NAME."""
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nread -r server\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


GIVES = 'printf \'{"ServerURL":"%s","Username":"me","Secret":"hunter2"}\' "$server"'


@pytest.mark.parametrize("how", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(
    registry: PushRegistry, push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The program on PATH gets the registry's name on its standard input."""
    registry.faults.password = "hunter2"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    helper(
        tmp_path, f'test "$1" = get || exit 1\ntest "$server" = {registry.host} || exit 1\n{GIVES}'
    )
    docker_config(**{how: "test" if how == "credsStore" else {registry.host: "test"}})
    assert push()[0] == 0


def test_helpers_that_do_not_know_or_do_not_work(
    registry: PushRegistry, push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not found: be nobody. Missing: exit 8. Nonsense: exit 13. A path: exit 13, and nothing is run."""
    registry.faults.password = "hunter2"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    docker_config(credsStore="test")
    assert push()[0] == 8
    helper(tmp_path, "echo 'credentials not found in native keychain'; exit 1")
    assert push()[0] == 12
    helper(tmp_path, "echo nonsense")
    assert push()[0] == 13
    helper(tmp_path, "echo broken >&2; exit 3")
    assert push()[0] == 13
    docker_config(credsStore="../../bin/sh")
    assert push()[0] == 13


@pytest.mark.parametrize("text", ["[", "[]", '{"auths": {"@": {"auth": "%%%"}}}'])
def test_a_configuration_that_is_none(registry: PushRegistry, push: Any, text: str) -> None:
    """Exit 13 and the file's name; only when a registry asks who we are."""
    path = docker_config()
    path.write_text(text.replace("@", registry.host))
    assert push()[0] == 0
    registry.faults.password = "hunter2"
    code, document = push()
    assert (code, document["error"]["kind"]) == (13, "config")
    assert "config.json" in document["error"]["message"]


def test_an_identity_token_is_traded_in(registry: PushRegistry, push: Any) -> None:
    """As `docker login` leaves it for registries with OAuth: by POST, not as a password."""
    registry.faults.password, registry.faults.bearer = "hunter2", True
    registry.faults.identity = "refresh"
    docker_config(auths={registry.host: {**auth("me:"), "identitytoken": "refresh"}})
    assert push()[0] == 0
    assert landed(registry)


def test_tokens_that_end_are_renewed(registry: PushRegistry, push: Any) -> None:
    """An upload takes longer than a token lives."""
    registry.faults.password, registry.faults.bearer = "hunter2", True
    docker_config(auths={registry.host: auth()})
    push("--dry-run")
    registry.token = "t1"
    assert push()[0] == 0
    assert landed(registry)


def test_a_user_who_may_only_read(registry: PushRegistry, push: Any) -> None:
    """403 with the registry's words, and the question that follows."""
    registry.faults.password, registry.faults.bearer = "hunter2", True
    registry.faults.forbidden = True
    docker_config(auths={registry.host: auth()})
    code, document = push()
    assert (code, document["error"]["kind"]) == (12, "auth")
    assert "(403): says denied" in document["error"]["message"]
    assert "may this user do that?" in document["error"]["hint"]


def test_plain_http_is_for_this_machine(push: Any, run_cli: Cli, tmp_path: Path) -> None:
    """A host on the network is asked by https; http that is written there is refused."""
    code, out, _ = run_cli(
        "push", "tiny:1b", "http://192.0.2.1:5000/me/tiny", "--store", tmp_path / "store", "--json"
    )
    assert (code, json.loads(out)["error"]["kind"]) == (11, "network")
    assert "plain http" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize(
    ("dest", "code"),
    [("me/tiny", 2), ("tiny", 2), ("127.0.0.1:1/Upper/case", 2), ("127.0.0.1:1/x:y:z", 2),
     ("ftp://127.0.0.1/x", 2), ("127.0.0.1:1/a@sha256:" + "0" * 64, 2), ("127.0.0.1:1/", 2)],
)  # fmt: skip
def test_what_is_no_destination(push: Any, run_cli: Cli, dest: str, code: int) -> None:
    """Usage errors that say what is expected; nothing is asked."""
    got, out, _ = run_cli("push", "tiny:1b", dest, "--json")
    assert got == code
    assert "expected" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize(
    ("args", "code"),
    [(("--form", "zip"), 2), (("--chunk", "1000"), 2), (("--chunk", "x"), 2), (("--offline",), 11)],
)
def test_wrong_options(push: Any, args: tuple[str, ...], code: int) -> None:
    """Each with its exit code."""
    assert push(*args)[0] == code


def test_a_model_that_is_not_there(registry: PushRegistry, run_cli: Cli) -> None:
    """Exit 5, and what to do; a form that needs a GGUF is refused for a model without one: exit 6."""
    code, out, _ = run_cli("push", "none:1", f"{registry.host}/a/b", "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (5, "not_found")
    root = Path(os.environ["OLLAMA_MODELS"])
    put_model(root, "registry.ollama.ai/library/mlx/1", b"x")
    path = root / "manifests/registry.ollama.ai/library/mlx/1"
    path.write_bytes(path.read_bytes().replace(b"image.model", b"image.tensor"))
    code, out, _ = run_cli("push", "mlx:1", f"{registry.host}/a/b", "--form", "docker", "--json")
    assert code == 6
    assert run_cli("push", "mlx:1", f"{registry.host}/a/b", "-q")[0] == 0


def test_a_cache_that_cannot_be_written_costs_no_push(
    registry: PushRegistry, push: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes for resuming are a help, no condition."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TQCONVERT_CACHE", str(tmp_path / "file"))
    assert push()[0] == 0
    assert landed(registry)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_keeps_what_arrived(
    registry: PushRegistry, tmp_path: Path, number: signal.Signals
) -> None:
    """130, no tag, and the next push goes on where this one ended."""
    put_model(tmp_path / "store", PATH, MODEL)
    registry.faults.delay_s = 0.03
    command = [
        sys.executable, "-m", "tqconvert", "push", "tiny:1b", f"{registry.host}/me/tiny:1b",
        "--store", str(tmp_path / "store"), "--json",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 30
        while registry.received < 2 << 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "Traceback" not in err
    assert registry.manifests["me/tiny"] == {}
    registry.faults.delay_s = 0
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed_from"] >= 1 << 20
    assert landed(registry)
