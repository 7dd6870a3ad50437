"""`tqconvert pull hf.co/...` from a local hub, through the real huggingface_hub client."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes
from fakehub import _HubHandler
from stores import check_store

from tqconvert.digest import digest_bytes
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.progress import Silent
from tqconvert.pull.job import carry_out, prepare
from tqconvert.pull.request import PullRequest
from tqconvert.reference import ModelName
from tqconvert.registry import hub as hub_client
from tqconvert.registry import transfer
from tqconvert.settings import load_settings
from tqconvert.store.layout import Store
from tqconvert.store.manifest import SOURCE_KEY

MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 600)})
OTHER = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 601)})
PROJECTOR = gguf_bytes(
    {"general.architecture": "clip", "general.type": "mmproj", "clip.vision.block_count": 2}
)
NAME = "hf.co/org/repo:Q4_K_M-tq"
FILES = {"README.md": b"# card", "config.json": b"{}", "m-Q4_K_M.gguf": MODEL, "m-Q8_0.gguf": OTHER}


def model_file(store: Store, name: str = NAME) -> Path:
    """The GGUF of an installed model."""
    layers = store.require_manifest(ModelName.parse(name)).layers_of("model")
    return store.blob(layers[0].digest)


def layer_text(store: Store, kind: str, name: str = NAME) -> str | None:
    """The text of a small layer, None where there is none."""
    for layer in store.require_manifest(ModelName.parse(name)).layers_of(kind):
        return store.blob(layer.digest).read_text()
    return None


def test_the_usual_quantization_is_installed_tagged(start_hub, store, run_cli) -> None:
    """hf.co/org/repo is its Q4_K_M, under that name; the source's digest is the listed one."""
    hub = start_hub(FILES)
    code, out, err = run_cli("pull", "hf.co/org/repo", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["name"], document["target"]) == ("hf.co/org/repo:Q4_K_M", NAME)
    assert document["digests"]["source_model"] == str(digest_bytes(MODEL))
    commit = hub.commits["org/repo"][0][0]
    assert document["origin"] == {
        "repository": "hf.co/org/repo", "revision": commit,
        "files": [{
            "path": "m-Q4_K_M.gguf", "sha256": digest_bytes(MODEL).hex, "bytes": len(MODEL),
        }],
    }  # fmt: skip
    assert document["bytes"] == len(MODEL)
    file = model_file(store)
    assert file.read_bytes()[PAGE:] == MODEL
    tags = read_tags(read_header(file))
    assert tags is not None
    assert (tags.type_k, tags.type_v) == ("q8_0", "turbo4")
    layer = store.require_manifest(ModelName.parse(NAME)).layers_of("model")[0]
    assert layer.annotations[SOURCE_KEY] == str(digest_bytes(MODEL))
    assert check_store(store.root) == {"hf.co/org/repo/Q4_K_M-tq"}
    assert (
        "FROM hf.co/org/repo:Q4_K_M-tq" in store.modelfile_path(ModelName.parse(NAME)).read_text()
    )
    assert run_cli("verify", NAME)[0] == 0


def test_no_byte_is_fetched_twice(start_hub, store, run_cli) -> None:
    """The header that the plan was made by is not fetched again, and a second pull asks for no file."""
    hub = start_hub(FILES)
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert hub.sent == len(MODEL)
    hub.requests.clear()
    code, out, _ = run_cli("pull", "hf.co/org/repo", "--json")
    assert (code, json.loads(out)["state"], json.loads(out)["bytes"]) == (0, "unchanged", 0)
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


@pytest.mark.parametrize(
    "name",
    [
        "hf.co/org/repo:q4_k_m", "hf.co/org/repo:m-Q4_K_M.gguf", "hf.co/org/repo:latest",
        "https://huggingface.co/org/repo/blob/main/m-Q4_K_M.gguf", "hf://org/repo/m-Q4_K_M.gguf",
        "hf.co/org/repo:Q4_K_M@main", "{hub}/org/repo/resolve/main/m-Q4_K_M.gguf?download=true",
    ],
)  # fmt: skip
def test_one_model_has_one_name(name: str, start_hub, run_cli) -> None:
    """However it is asked for, the second pull finds the first one's."""
    hub = start_hub(FILES)
    assert run_cli("pull", "hf.co/org/repo", "-q")[1] == f"{NAME}\n"
    code, out, err = run_cli("pull", name.format(hub=hub.address), "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "unchanged"


def test_dry_run_writes_nothing_and_says_the_tags(start_hub, store, run_cli) -> None:
    """The header alone is fetched; the plan names file, commit and tags."""
    hub = start_hub(FILES)
    code, out, _ = run_cli("pull", "hf.co/org/repo:Q8_0", "-n")
    assert code == 0
    assert f"m-Q8_0.gguf of hf.co/org/repo at {hub.commits['org/repo'][0][0][:12]}" in out
    assert "would be tagged K q8_0, V turbo4" in out
    assert not store.root.exists()
    assert [h["Range"] for h in hub.asked("/resolve/")] == [f"bytes=0-{(1 << 20) - 1}"]


def test_to_a_folder_under_a_name_of_ones_own(start_hub, store, tmp_path, run_cli) -> None:
    """--to and --as mean what they do elsewhere."""
    start_hub(FILES)
    args = ("pull", "hf.co/org/repo:Q8_0", "--as", "mine:8", "--to", tmp_path / "out", "--no-tag")
    assert run_cli(*args)[0] == 0
    assert (tmp_path / "out/mine-8.gguf").read_bytes() == OTHER
    assert (tmp_path / "out/Modelfile").exists()
    assert not store.root.exists()
    assert json.loads(run_cli(*args, "--json")[1])["state"] == "unchanged"


def test_what_was_listed_is_what_is_fetched(start_hub, store, tmp_path) -> None:
    """A commit that comes after the plan was made changes nothing; the next pull sees it."""
    hub = start_hub(FILES)
    settings = load_settings(os.environ, tmp_path)
    request = PullRequest("hf.co/org/repo")
    job = prepare(request, settings, Silent())
    hub.commit("org/repo", {**FILES, "m-Q4_K_M.gguf": OTHER})
    carry_out(job)
    assert model_file(store).read_bytes()[PAGE:] == MODEL
    old = hub.commits["org/repo"][0][0]
    assert all(f"/resolve/{old}/" in path for _, path, _ in hub.requests if "/resolve/" in path)
    again = prepare(request, settings, Silent())
    assert again.plan.state.value == "replace"
    pinned = prepare(PullRequest(f"hf.co/org/repo@{old}"), settings, Silent())
    assert pinned.plan.state.value == "unchanged"


def test_a_mirror_that_serves_another_commit_is_refused(start_hub, store, run_cli) -> None:
    """The commit of the answer is compared with the listed one."""
    start_hub(FILES).rules.lie_about_commit = True
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 4
    assert "comes from commit 0000" in err
    assert not store.root.exists()


def test_the_projector_comes_along(start_hub, store, run_cli) -> None:
    """An mmproj file is a projector layer, and never the model."""
    start_hub({**FILES, "mmproj-m-F16.gguf": PROJECTOR})
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    manifest = store.require_manifest(ModelName.parse(NAME))
    (projector,) = manifest.layers_of("projector")
    assert projector.digest == digest_bytes(PROJECTOR)
    assert store.blob(projector.digest).read_bytes() == PROJECTOR
    assert len(manifest.layers_of("model")) == 1
    code, _, err = run_cli("pull", "hf.co/org/repo:mmproj-m-F16.gguf")
    assert (code, "a projector" in err) == (2, True)


def test_the_authors_template_system_and_params(start_hub, store, run_cli) -> None:
    """Files named so at the top of the repository become layers; what Ollama does not know is said."""
    params = {"temperature": 0.5, "stop": ["<end>"], "nonsense": 1, "top_k": "many"}
    start_hub({
        **FILES, "template": b"{{ .Prompt }}!", "system": b"Be brief.", "LICENSE": b"Free.",
        "params": json.dumps(params).encode(), "sub/system": b"not this",
    })  # fmt: skip
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 0
    assert layer_text(store, "template") == "{{ .Prompt }}!"
    assert layer_text(store, "system") == "Be brief."
    assert layer_text(store, "license") == "Free."
    assert json.loads(layer_text(store, "params") or "") == {"stop": ["<end>"], "temperature": 0.5}
    assert "nonsense left out" in err
    assert "top_k left out" in err


@pytest.mark.parametrize(
    "text", [b"{% for m in messages %}{{ m }}{% endfor %}", b"{{ if .System }}x"]
)
def test_a_template_that_ollama_cannot_read(text: bytes, start_hub, store, run_cli) -> None:
    """Jinja, or a block without an end, is left out and said; the model is installed."""
    start_hub({**FILES, "template": text})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "template of the repository left out" in err) == (0, True)
    assert layer_text(store, "template") is None


def test_names_that_a_terminal_would_obey(start_hub, run_cli) -> None:
    """Files with control characters in their names are not listed, nor is a server's text printed raw."""
    hub = start_hub({**FILES, "\x1b[2Jm-Q2_K.gguf": OTHER})
    code, _, err = run_cli("pull", "hf.co/org/repo:Q2_K")
    assert (code, "\x1b" in err) == (5, False)
    hub.rules.status = [403]
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "\x1b" in err, "hf auth login" in err) == (12, False, True)


def test_an_answer_that_is_no_hubs(start_hub, run_cli, monkeypatch) -> None:
    """A login page, answered with 200, is told from a Hub."""
    hub = start_hub(FILES)
    monkeypatch.setattr(_HubHandler, "_json", lambda self, *_: self._send(200, b"<html>"))
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "does not answer as Hugging Face does" in err) == (11, True)
    assert hub.requests


def test_nothing_is_invented(start_hub, store, run_cli) -> None:
    """Without such files and without anything certain in the header there is a model and a config."""
    start_hub({**FILES, "params": b"[]"})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 0
    assert "params of the repository is no JSON object" in err
    manifest = store.require_manifest(ModelName.parse(NAME))
    assert [layer.kind for layer in manifest.layers] == ["model"]


def test_a_gguf_outside_lfs_is_compared_with_its_git_blob(start_hub, store, run_cli) -> None:
    """Small files may be plain Git; a wrong byte is found by their blob id."""
    hub = start_hub({"tiny-Q4_K_M.gguf": MODEL})
    hub.rules.plain.add("tiny-Q4_K_M.gguf")
    hub.faults.corrupt_at = 9000
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 4
    assert "not the file that was listed" in err
    hub.faults.corrupt_at = None
    code, out, _ = run_cli("pull", "hf.co/org/repo", "--json")
    assert code == 0
    assert json.loads(out)["origin"]["files"][0]["sha256"] == digest_bytes(MODEL).hex
    assert model_file(store).read_bytes()[PAGE:] == MODEL


def test_a_gated_repository(start_hub, run_cli, monkeypatch) -> None:
    """Listed for all, its files are not: the hint names the page and the login; a token opens it."""
    hub = start_hub(FILES)
    hub.rules.gated = True
    for args in ((), ("-n",)):
        code, _, err = run_cli("pull", "hf.co/org/repo", *args)
        assert code == 12
        assert f"accept its terms at {hub.address}/org/repo, then hf auth login" in err
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    code, out, _ = run_cli("pull", "hf.co/org/repo", "--json")
    assert code == 12
    error = json.loads(out)["error"]
    assert error["kind"] == "auth"
    assert "with the account of your token" in error["hint"]
    monkeypatch.setenv("HF_TOKEN", hub.rules.token)
    assert run_cli("pull", "hf.co/org/repo")[0] == 0


def test_a_private_and_a_missing_repository_look_alike(start_hub, run_cli, monkeypatch) -> None:
    """The Hub does not tell them apart, so the hint speaks of both."""
    hub = start_hub(FILES)
    hub.rules.private = True
    for name in ("hf.co/org/repo", "hf.co/org/other"):
        code, _, err = run_cli("pull", name)
        assert code == 5
        assert "no such repository" in err
        assert "hf auth login, or set HF_TOKEN" in err
    monkeypatch.setenv("HF_TOKEN", hub.rules.token)
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    code, _, err = run_cli("pull", "hf.co/org/repo@nope")
    assert (code, "no revision nope" in err) == (5, True)


def test_a_hub_that_is_busy(start_hub, run_cli, monkeypatch) -> None:
    """503 and 429 are asked again; one that stays busy is exit 11."""
    hub = start_hub(FILES)
    waits: list[float] = []
    monkeypatch.setattr(hub_client.time, "sleep", waits.append)
    hub.rules.status = [503, 429]
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert waits[:1] == [0.5]
    hub.rules.status = [500] * 99
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 11
    assert "gave up after 4 attempts" in err


def test_nobody_there(run_cli, monkeypatch) -> None:
    """No server, plain http over a network, an address that is no hub: typed errors with a way out."""
    monkeypatch.setattr(hub_client.time, "sleep", lambda _: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "127.0.0.1:9" in err) == (11, True)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "--insecure" in err) == (11, True)
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    assert run_cli("pull", "hf.co/org/repo")[0] in (11, 13)


def test_offline(start_hub, tmp_path, run_cli) -> None:
    """--offline and HF_HUB_OFFLINE, as the client itself heeds it, ask nobody."""
    hub = start_hub(FILES)
    code, _, err = run_cli("pull", "hf.co/org/repo", "--offline")
    assert (code, "--offline" in err) == (11, True)
    done = subprocess.run(
        [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 11
    assert "unset HF_HUB_OFFLINE" in done.stderr
    assert hub.requests == []


def test_a_mirror_of_our_own_setting_is_asked_alone(start_hub) -> None:
    """The client, which knows HF_ENDPOINT only, asks nobody else either."""
    mirror, other = start_hub(FILES), start_hub({})  # HF_ENDPOINT is the other
    env = {**os.environ, "TQCONVERT_HF_ENDPOINT": mirror.address}
    command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "-q"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert mirror.requests
    assert other.requests == []


def test_the_token_of_hf_auth_login(start_hub, tmp_path, store) -> None:
    """The client's token file is read from its place; HF_HUB_DISABLE_IMPLICIT_TOKEN keeps it here."""
    hub = start_hub(FILES)
    hub.rules.private = True
    home = Path(os.environ["HF_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "token").write_text(hub.rules.token)
    command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "-q"]
    for variable, code in (("1", 5), ("", 0)):
        env = {**os.environ, "HF_HUB_DISABLE_IMPLICIT_TOKEN": variable}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr


def test_signatures_that_expire(start_hub, store, run_cli, monkeypatch) -> None:
    """Files redirect to a CDN; when its signed address ends, the Hub is asked for another; no token there."""
    monkeypatch.setattr(transfer, "SPAN", 1 << 18)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub = start_hub(FILES)
    hub.rules.sign_uses = 2
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 0, err
    assert model_file(store).read_bytes()[PAGE:] == MODEL
    assert len(hub.signatures) > 2
    assert min(hub.signatures.values()) < 0
    assert hub.asked("/cdn/")
    assert not [h for h in hub.asked("/cdn/") if "authorization" in {k.lower() for k in h}]
    assert all(h["Authorization"] == "Bearer hf_good" for h in hub.asked("/resolve/"))


def test_xet_backed_files_come_over_https(start_hub, store, run_cli) -> None:
    """Their listing and headers name Xet; nothing but the file's own address is asked."""
    hub = start_hub(FILES)
    hub.rules.xet = True
    hub.rules.sign_uses = 99
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert model_file(store).read_bytes()[PAGE:] == MODEL
    assert not [path for _, path, _ in hub.requests if "xet" in path]


def test_cut_connections_and_wrong_bytes(start_hub, store, run_cli) -> None:
    """A cut transfer goes on; a wrong byte installs nothing."""
    hub = start_hub(FILES)
    hub.faults.cut_at = [1 << 20, 300_000, 5]  # the header's answer comes whole
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert model_file(store).read_bytes()[PAGE:] == MODEL
    hub.faults.corrupt_at = len(OTHER) - 100
    code, _, err = run_cli("pull", "hf.co/org/repo:Q8_0")
    assert code == 4
    assert "sha256 of what arrived" in err
    assert check_store(store.root) == {"hf.co/org/repo/Q4_K_M-tq"}


def test_a_killed_pull_goes_on(start_hub, store) -> None:
    """After kill -9 in the middle, the next process fetches what is missing and no more, and verifies all."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 4000)})
    hub = start_hub({"m-Q4_K_M.gguf": model})
    hub.faults.delay_s = 0.02
    command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while hub.sent < 10 << 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -9
    hub.faults.delay_s = 0
    before = hub.sent
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["resumed_from"] >= 4 << 20
    assert document["bytes"] + document["resumed_from"] >= len(model)
    assert hub.sent - before < len(model)
    assert model_file(store).read_bytes()[PAGE:] == model
    assert check_store(store.root) == {"hf.co/org/repo/Q4_K_M-tq"}


def test_a_server_without_ranges(start_hub, store, run_cli) -> None:
    """The answer with everything is hung up on after the header, and taken whole for the model."""
    hub = start_hub(FILES)
    hub.faults.no_ranges = True
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert model_file(store).read_bytes()[PAGE:] == MODEL


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({**LLAMA, "general.type": "adapter"}, "adapter"),
        ({"general.architecture": "clip", "clip.vision.block_count": 2, "general.type": "mmproj"}, "mmproj"),
        ({**LLAMA, "split.count": 2, "split.no": 0}, "one of 2 shards"),
    ],
    ids=["adapter", "projector", "shard"],
)  # fmt: skip
def test_ggufs_that_are_no_model(keys, words: str, start_hub, store, run_cli) -> None:
    """Whatever the file is called, its header is looked at before anything is fetched."""
    start_hub({"m-Q4_K_M.gguf": gguf_bytes(keys)})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 6
    assert words in err
    assert not store.root.exists()


def test_the_real_client_sees_a_hub(start_hub, tmp_path) -> None:
    """`hf download` takes the same file from the stub: what the tests stand on is a hub to others too."""
    start_hub(FILES)
    program = Path(sys.executable).parent / "hf"
    command = [program] if program.exists() else [sys.executable, "-m", "huggingface_hub.cli.hf"]
    done = subprocess.run(
        [*command, "download", "org/repo", "m-Q4_K_M.gguf", "--local-dir", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m-Q4_K_M.gguf").read_bytes() == MODEL


def test_what_hf_download_left_is_not_fetched_again(start_hub, store, tmp_path) -> None:
    """The client's cache serves the pull, verified, online and offline; a damaged copy is fetched."""
    hub = start_hub({**FILES, "mmproj-F16.gguf": PROJECTOR, "system": b"Be brief."})
    python = [sys.executable, "-c"]
    fetch = "import huggingface_hub as h; print(h.snapshot_download('org/repo', ignore_patterns=['*Q8*']))"
    done = subprocess.run([*python, fetch], capture_output=True, text=True, check=True)
    snapshot = Path(done.stdout.strip())

    def pull(*args: object, code: int = 0) -> str:
        hub.requests.clear()
        command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", *map(str, args)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        return ran.stdout + ran.stderr

    assert "nothing fetched" in pull("--store", tmp_path / "a")
    assert not [p for m, p, _ in hub.requests if m == "GET" and p.endswith(".gguf")]
    told = pull("--store", tmp_path / "b", "--offline")
    assert "offline: org/repo is what huggingface_hub's cache has of it" in told
    assert hub.requests == []
    manifests = [
        Store(tmp_path / n).require_manifest(ModelName.parse(NAME)).data for n in ("a", "b")
    ]
    assert manifests[0] == manifests[1]
    missing = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/other", "--offline"]
    ran = subprocess.run(missing, capture_output=True, text=True, check=False)
    assert (ran.returncode, "cache does not have it either" in ran.stderr) == (11, True)
    file = (snapshot / "m-Q4_K_M.gguf").resolve()
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    assert "the copy here is damaged; fetching it" in pull("--store", tmp_path / "d")
    assert check_store(tmp_path / "d") == {"hf.co/org/repo/Q4_K_M-tq"}
    data[200] ^= 1  # in the header: what was made of it must not be installed
    file.write_bytes(data)
    told = pull("--store", tmp_path / "e", code=4)
    assert f"remove the damaged copy, then run again: {snapshot / 'm-Q4_K_M.gguf'}" in told
    assert check_store(tmp_path / "e") == set()


def test_a_model_that_comes_tagged(start_hub, store, run_cli, tmp_path) -> None:
    """What somebody tagged before publishing it stays as it is, and is known again."""
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_bytes({**LLAMA, "odd": float("nan")}, {"token_embd.weight": (1024, 60)}))
    assert run_cli("tag", file, "--type-k", "q8_0", "--type-v", "q8_0")[0] == 0
    start_hub({"m-Q4_K_M.gguf": file.read_bytes()})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "comes tagged already (q8_0/q8_0)" in err) == (0, True), err
    assert model_file(store).read_bytes() == file.read_bytes()
    code, out, _ = run_cli("pull", "hf.co/org/repo", "--json")
    assert (code, json.loads(out)["state"]) == (0, "unchanged")


def test_the_cache_serves_another_commit(start_hub, tmp_path, store) -> None:
    """A new README does not make the client's copy of the model another one."""
    hub = start_hub(FILES)
    fetch = "import huggingface_hub as h; h.hf_hub_download('org/repo', 'm-Q4_K_M.gguf')"
    subprocess.run([sys.executable, "-c", fetch], capture_output=True, check=True)
    hub.commit("org/repo", {**FILES, "README.md": b"another"})
    hub.requests.clear()
    command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "--no-tag", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == 0
    assert json.loads(done.stdout)["origin"]["revision"] == hub.commits["org/repo"][1][0]
    assert not [p for m, p, _ in hub.requests if p.endswith(".gguf")]
    assert model_file(store, "hf.co/org/repo:Q4_K_M").read_bytes() == MODEL


def test_a_locked_model_is_pulled_at_its_commit(
    start_hub, store, run_cli, tmp_path, monkeypatch
) -> None:
    """--locked makes the old bytes again when the repository has moved on; a new README is no change."""
    monkeypatch.chdir(tmp_path)
    hub = start_hub(FILES)
    assert run_cli("pull", "hf.co/org/repo", "--lock")[0] == 0
    lock = (tmp_path / "tqconvert.lock").read_text()
    assert f'revision = "{hub.commits["org/repo"][0][0]}"' in lock
    hub.commit("org/repo", {**FILES, "README.md": b"new"})
    assert run_cli("pull", "hf.co/org/repo", "--lock")[0] == 0
    assert (tmp_path / "tqconvert.lock").read_text() == lock
    hub.commit("org/repo", {"m-Q4_K_M.gguf": OTHER})
    code, _, err = run_cli("pull", "--locked", "--store", tmp_path / "second")
    assert code == 0, err
    assert model_file(Store(tmp_path / "second")).read_bytes()[PAGE:] == MODEL
