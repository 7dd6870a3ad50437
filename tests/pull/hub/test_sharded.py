"""Sharded repositories: one GGUF in the store, each shard verified, every interruption survived."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import killer
import pytest
from builders import LLAMA, gguf_bytes
from shards import split_gguf
from stores import check_store

from tqconvert.digest import digest_bytes
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.pull import head
from tqconvert.reference import ModelName
from tqconvert.registry import transfer
from tqconvert.store.layout import Store
from tqconvert.store.manifest import SOURCE_KEY

WHOLE = gguf_bytes(LLAMA, {f"blk.{i}.w": (1024, 100) for i in range(6)})
SHARDS = split_gguf(WHOLE, "Q8_0/m-Q8_0", [0, 2, 1, 3])
NAME = "hf.co/org/repo:Q8_0-tq"


@pytest.fixture(autouse=True)
def _small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges for a shard of a few hundred KiB, and a header that is not all of it."""
    monkeypatch.setattr(transfer, "SPAN", 1 << 18)
    monkeypatch.setattr(head, "FIRST_BYTES", 4096)


def model_file(store: Store, name: str = NAME) -> Path:
    """The GGUF of an installed model."""
    layers = store.require_manifest(ModelName.parse(name)).layers_of("model")
    return store.blob(layers[0].digest)


def test_shards_become_one_tagged_model(start_hub, store, run_cli) -> None:
    """The blob is the page and the file that was split; its digest is noted, nothing else is left."""
    hub = start_hub(SHARDS)
    code, out, err = run_cli("pull", "hf.co/org/repo", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["digests"]["source_model"] == str(digest_bytes(WHOLE))
    assert [f["path"] for f in document["origin"]["files"]] == list(SHARDS)
    assert document["bytes"] == hub.sent == sum(map(len, SHARDS.values()))
    file = model_file(store)
    assert file.read_bytes()[PAGE:] == WHOLE
    assert read_tags(read_header(file)) is not None
    layer = store.require_manifest(ModelName.parse(NAME)).layers_of("model")[0]
    assert layer.annotations[SOURCE_KEY] == str(digest_bytes(WHOLE))
    assert check_store(store.root) == {"hf.co/org/repo/Q8_0-tq"}
    assert list(store.partials.glob("*")) == []
    assert run_cli("verify", NAME)[0] == 0


@pytest.mark.parametrize("flags", [(), ("--no-tag",)], ids=["tagged", "untagged"])
def test_a_second_pull_asks_for_no_file(flags, start_hub, store, run_cli) -> None:
    """What was joined is known by its shards."""
    hub = start_hub(SHARDS)
    assert run_cli("pull", "hf.co/org/repo", *flags)[0] == 0
    hub.requests.clear()
    code, out, err = run_cli("pull", "hf.co/org/repo", *flags, "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "unchanged"
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]


def test_untagged_it_is_the_file_that_was_split(start_hub, store, tmp_path, run_cli) -> None:
    """--no-tag installs it, --to writes it; both are bytes of the original."""
    start_hub(SHARDS)
    assert run_cli("pull", "hf.co/org/repo", "--no-tag")[0] == 0
    assert model_file(store, "hf.co/org/repo:Q8_0").read_bytes() == WHOLE
    assert run_cli("pull", "hf.co/org/repo", "--no-tag", "--to", tmp_path)[0] == 0
    assert (tmp_path / "repo-Q8_0.gguf").read_bytes() == WHOLE
    # Tagged over untagged under one name is another content, and asked about.
    assert run_cli("pull", "hf.co/org/repo", "--as", "hf.co/org/repo:Q8_0")[0] == 6


def test_the_dry_run_counts_all_shards(start_hub, store, run_cli) -> None:
    """Bytes of the whole, tags, and no digest that nobody can know yet."""
    start_hub(SHARDS)
    code, out, _ = run_cli("pull", "hf.co/org/repo", "-n")
    assert (code, "4 shards" in out, "would be tagged" in out) == (0, True, True)
    document = json.loads(run_cli("pull", "hf.co/org/repo", "-n", "--json")[1])
    assert document["fetch_bytes"] == len(WHOLE)
    assert document["fetch"][0]["digest"] is None
    assert document["fetch"][0]["shards"] == [str(digest_bytes(d)) for d in SHARDS.values()]
    assert not store.root.exists()


def test_a_wrong_shard_costs_itself_alone(start_hub, store, run_cli) -> None:
    """It is named, nothing is installed, and the next pull fetches no other shard again."""
    names = list(SHARDS)
    broken = bytearray(SHARDS[names[2]])
    hub = start_hub(SHARDS)
    broken[-100] ^= 1
    hub.lies = {(hub.commits["org/repo"][0][0], names[2]): bytes(broken)}
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert code == 4
    assert "m-Q8_0-00003-of-00004.gguf: sha256 of what arrived" in err
    assert store.read_manifest(ModelName.parse(NAME)) is None
    hub.lies = {}
    before = hub.sent
    code, out, err = run_cli("pull", "hf.co/org/repo", "--json")
    assert code == 0, err
    assert json.loads(out)["resumed_from"] > len(SHARDS[names[1]])
    assert hub.sent - before <= 4 * 4096 + len(SHARDS[names[2]]) + len(SHARDS[names[3]])
    assert model_file(store).read_bytes()[PAGE:] == WHOLE


def test_a_cut_and_a_server_without_ranges(start_hub, store, run_cli) -> None:
    """Shards are resumed, or taken whole, their header left out of the way."""
    hub = start_hub(SHARDS)
    hub.faults.cut_at = [1 << 22, 1 << 22, 1 << 22, 1 << 22, 10, 70_000]
    assert run_cli("pull", "hf.co/org/repo")[0] == 0
    assert model_file(store).read_bytes()[PAGE:] == WHOLE
    hub.faults.no_ranges = True
    assert run_cli("pull", "hf.co/org/repo", "--as", "other")[0] == 0
    assert model_file(store, "other").read_bytes()[PAGE:] == WHOLE


def test_shards_that_are_missing_or_foreign(start_hub, store, run_cli) -> None:
    """Both are found before the first byte of data."""
    names = list(SHARDS)
    start_hub({n: d for n, d in SHARDS.items() if n != names[1]})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "missing: m-Q8_0-00002-of-00004.gguf" in err) == (4, True)
    start_hub({**SHARDS, names[1]: SHARDS[names[2]]})
    code, _, err = run_cli("pull", "hf.co/org/repo")
    assert (code, "split.no 2" in err) == (4, True)
    assert not store.root.exists()


@pytest.mark.slow
def test_kills_at_writes(start_hub, tmp_path, run_cli) -> None:
    """Killed before, in the middle of and after every fourth call that writes: the next pull ends right."""
    whole = gguf_bytes(LLAMA, {"a": (64, 9), "b": (32, 5)})
    start_hub(split_gguf(whole, "m-Q8_0", [1, 1]))
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    arguments = ("pull", "hf.co/org/repo", "-q", "--store")
    found = killer.states(pristine, tmp_path / "states", *arguments, "@", every=4)
    assert len(found) >= 15
    for state in found:
        store = Store(Path(state["folder"]))
        check_store(store.root)
        code, _, err = run_cli(*arguments, store.root)
        assert code == 0, (state, err)
        assert model_file(store).read_bytes()[PAGE:] == whole
        assert check_store(store.root) == {"hf.co/org/repo/Q8_0-tq"}
        assert list(store.partials.glob("*")) == []
        shutil.rmtree(store.root)


def test_offline_shards_are_not_asked_for(start_hub, tmp_path, store) -> None:
    """Also where the client's cache has them: nothing goes out, the reason is said."""
    hub = start_hub(SHARDS)
    fetch = "import huggingface_hub as h; h.snapshot_download('org/repo')"
    subprocess.run([sys.executable, "-c", fetch], capture_output=True, check=True)
    hub.requests.clear()
    command = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "--offline forbids" in done.stderr) == (11, True), done.stderr
    assert hub.requests == []
    assert not store.root.exists()
