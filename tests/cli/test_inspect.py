"""`inspect` in human, JSON and quiet mode, on plain, sharded, odd and broken files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from builders import F32, LLAMA, STRING, U32, keys_of, tiny_gguf

GEMMA3 = keys_of(
    "gemma3", block_count=6, context_length=32768, embedding_length=640, attention__head_count=4,
    attention__head_count_kv=1, attention__key_length=256, attention__value_length=256,
    attention__sliding_window=512,
)  # fmt: skip


def shards(folder: Path, count: int = 3, **changed: Any) -> list[Path]:
    """A model in `count` files of one tensor each; keys of the last one may be changed."""
    paths = []
    for i in range(count):
        keys: dict[str, Any] = dict(LLAMA) if i == 0 else {}
        keys |= {"split.no": i, "split.count": count, "split.tensors.count": count}
        if i == count - 1:
            keys |= changed
        path = folder / f"m-{i + 1:05d}-of-{count:05d}.gguf"
        paths.append(tiny_gguf(path, keys, tensors={f"blk.{i}.attn_k.weight": (32, 2)}))
    return paths


def test_text_shows_the_facts(run_cli: Any, tmp_path: Path) -> None:
    """One line per fact, layers of one kind in one row."""
    path = tiny_gguf(tmp_path / "g.gguf", {**GEMMA3, "general.file_type": 15})
    code, out, err = run_cli("inspect", path)
    assert (code, err) == (0, "")
    assert out == (
        f"{path}\n"
        "  architecture  gemma3\n"
        "  name          tiny gemma3\n"
        "  parameters    64 (64)\n"
        "  file type     Q4_K_M\n"
        f"  size          {path.stat().st_size} B ({path.stat().st_size} bytes)\n"
        "  GGUF          version 3, little-endian, 11 keys, 1 tensors\n"
        "  tensors       F32 100.0 %\n"
        "  context       32k\n"
        "  layers        1 full + 5 sliding (window 512) layers, 4 heads, 1 K/V x 256\n"
        "  cache tags    none\n"
        "  layers  kind     n  heads  K/V heads  head dim K/V  window\n"
        "  0-4     sliding  5      4          1       256/256     512\n"
        "  5       full     1      4          1       256/256       -\n"
    )


def test_json_is_one_document(run_cli: Any, tmp_path: Path) -> None:
    """The document has the schema, integers for bytes, and layers by kind."""
    path = tiny_gguf(tmp_path / "g.gguf", GEMMA3)
    code, out, err = run_cli("inspect", path, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "tqconvert.inspect/1"
    assert document["files"] == [str(path)]
    assert document["parameters"] == 64
    assert document["bytes"] == path.stat().st_size
    assert document["file_type"] == {"id": None, "name": "mostly F32 (by its tensors)"}
    assert [(x["kind"], x["indices"], x["window"]) for x in document["layers"]] == [
        ("sliding", [0, 1, 2, 3, 4], 512),
        ("full", [5], None),
    ]
    assert document["cache_tags"] is None
    assert document["known_architecture"] is True


def test_quiet_is_the_architecture(run_cli: Any, tmp_path: Path) -> None:
    """-q prints the architecture and nothing else."""
    assert run_cli("inspect", tiny_gguf(tmp_path / "g.gguf"), "-q") == (0, "llama\n", "")


def test_unknown_file_type_is_not_guessed(run_cli: Any, tmp_path: Path) -> None:
    """A number that llama.h does not have is shown as it is."""
    path = tiny_gguf(tmp_path / "g.gguf", {**LLAMA, "general.file_type": 999})
    assert "unknown file type 999, mostly F32" in run_cli("inspect", path)[1]


def test_unknown_architecture_is_said_to_be(run_cli: Any, tmp_path: Path) -> None:
    """The layers of an unknown architecture come with a note that they are an upper bound."""
    path = tiny_gguf(
        tmp_path / "g.gguf",
        keys_of("newnet", block_count=2, embedding_length=256, attention__head_count=2),
    )
    code, out, _ = run_cli("inspect", path)
    assert code == 0
    assert "note: unknown architecture newnet" in out
    assert "upper bound" in out
    assert json.loads(run_cli("inspect", path, "--json")[1])["known_architecture"] is False


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_any_shard_shows_the_whole_model(run_cli: Any, tmp_path: Path, shard: int) -> None:
    """Parameters, bytes and tensors are those of all files, whichever shard is named."""
    paths = shards(tmp_path)
    document = json.loads(run_cli("inspect", paths[shard], "--json", "--tensors")[1])
    assert document["files"] == [str(p) for p in paths]
    assert document["parameters"] == 3 * 64
    assert document["bytes"] == sum(p.stat().st_size for p in paths)
    assert [t["name"] for t in document["tensors"]] == [f"blk.{i}.attn_k.weight" for i in range(3)]
    assert document["architecture"] == "llama"
    assert "bytes in 3 files" in run_cli("inspect", paths[shard])[1]


def test_missing_shard(run_cli: Any, tmp_path: Path) -> None:
    """A set with a hole names the file that is missing."""
    paths = shards(tmp_path)
    paths[1].unlink()
    code, _, err = run_cli("inspect", paths[0])
    assert code == 5
    assert paths[1].name in err


@pytest.mark.parametrize("changed", [{"split.no": 0}, {"split.count": 4}])
def test_shards_that_are_no_set(run_cli: Any, tmp_path: Path, changed: dict[str, Any]) -> None:
    """Shards whose numbers do not fit are refused."""
    assert run_cli("inspect", shards(tmp_path, **changed)[0])[0] == 4


def test_truncated_shard(run_cli: Any, tmp_path: Path) -> None:
    """A shard other than the named one is checked too."""
    paths = shards(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    code, _, err = run_cli("inspect", paths[0])
    assert code == 4
    assert str(paths[2]) in err


def test_get_prints_any_key(run_cli: Any, tmp_path: Path) -> None:
    """A scalar is one line, an array one element a line, a text as it is."""
    words = [f"w{i}" for i in range(2000)]
    keys = {
        **LLAMA, "tokenizer.ggml.tokens": words, "tokenizer.chat_template": "{{ a }}\n{{ b }}",
        "yes": True, "raw": (STRING, b"a\xff"),
    }  # fmt: skip
    path = tiny_gguf(tmp_path / "g.gguf", keys)
    assert run_cli("inspect", path, "--get", "llama.block_count") == (0, "2\n", "")
    assert run_cli("inspect", path, "--get", "yes") == (0, "true\n", "")
    assert run_cli("inspect", path, "--get", "raw") == (0, "a\\xff\n", "")
    assert run_cli("inspect", path, "--get", "tokenizer.ggml.tokens")[1].split() == words
    assert run_cli("inspect", path, "--get", "tokenizer.chat_template", "-q")[1] == (
        "{{ a }}\n{{ b }}\n"
    )
    document = json.loads(run_cli("inspect", path, "--get", "tokenizer.ggml.tokens", "--json")[1])
    assert document["type"] == "array of 2000 string"
    assert document["value"] == words


def test_get_of_a_number_that_json_lacks(run_cli: Any, tmp_path: Path) -> None:
    """Infinity and NaN come as texts: the document stays JSON."""
    path = tiny_gguf(tmp_path / "g.gguf", {**LLAMA, "f": [(F32, float("inf")), (F32, 1.5)]})
    out = run_cli("inspect", path, "--get", "f", "--json")[1]
    assert json.loads(out, parse_constant=pytest.fail)["value"] == ["inf", 1.5]


def test_get_of_a_typo_suggests(run_cli: Any, tmp_path: Path) -> None:
    """An unknown key is exit 5 and names the nearest one, in JSON too."""
    path = tiny_gguf(tmp_path / "g.gguf")
    code, out, err = run_cli("inspect", path, "--get", "llama.block_cuont")
    assert (code, out) == (5, "")
    assert "no key llama.block_cuont" in err
    assert "hint: did you mean llama.block_count?" in err
    code, out, _ = run_cli("inspect", path, "--get", "llama.block_cuont", "--json")
    assert code == 5
    assert json.loads(out)["error"]["kind"] == "not_found"


def test_keys_lists_every_key(run_cli: Any, tmp_path: Path) -> None:
    """--keys names each key with its type; long values are cut."""
    path = tiny_gguf(tmp_path / "g.gguf", {**LLAMA, "long": "x" * 500, "two": "a\nb"})
    code, out, _ = run_cli("inspect", path, "--keys")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [*LLAMA, "long", "two"]
    assert lines[-1].endswith("a\\nb")
    assert len(lines[-2]) < 150
    assert run_cli("inspect", path, "--keys", "-q")[1].split() == [*LLAMA, "long", "two"]


def test_tensors_table(run_cli: Any, tmp_path: Path) -> None:
    """--tensors lists name, type, shape, bytes and offset."""
    path = tiny_gguf(tmp_path / "g.gguf", tensors={"a.weight": (32, 2), "b": (3,)})
    assert run_cli("inspect", path, "--tensors")[1] == (
        "tensor    type  shape   bytes  offset\n"
        "a.weight  F32   32 x 2    256       0\n"
        "b         F32   3          12     256\n"
    )
    assert run_cli("inspect", path, "--tensors", "-q")[1] == "a.weight\nb\n"


def test_tags_are_shown(run_cli: Any, tmp_path: Path) -> None:
    """Cache tags are named per side, with whether a measurement stands behind them."""
    keys = {
        **LLAMA, "general.kv_cache.type_k": "q8_0", "general.kv_cache.type_v": "turbo4",
        "turboquant.schema": (U32, 1), "turboquant.balance": "none",
        "turboquant.evidence": '"unmeasured"', "turboquant.tool": "tqconvert 0.1.0",
    }  # fmt: skip
    path = tiny_gguf(tmp_path / "g.gguf", keys)
    assert (
        "cache tags    K q8_0, V turbo4, unmeasured (by tqconvert 0.1.0)"
        in (run_cli("inspect", path)[1])
    )
    tags = json.loads(run_cli("inspect", path, "--json")[1])["cache_tags"]
    assert (tags["type_k"], tags["type_v"], tags["measured"]) == ("q8_0", "turbo4", False)


def test_bytes_behind_the_last_tensor_are_noted(run_cli: Any, tmp_path: Path) -> None:
    """A file with an appendix is usable; the appendix is named."""
    path = tiny_gguf(tmp_path / "g.gguf")
    path.write_bytes(path.read_bytes() + b"x" * 1000)
    code, out, _ = run_cli("inspect", path)
    assert code == 0
    assert "1000 bytes after the last tensor" in out


@pytest.mark.parametrize(
    ("content", "code", "kind"),
    [(b"", 4, "truncated_gguf"), (b"<html>", 4, "invalid_gguf"), (None, 5, "not_found")],
)
def test_what_is_no_gguf(
    run_cli: Any, tmp_path: Path, content: bytes | None, code: int, kind: str
) -> None:
    """Broken and missing files end in their exit code, in text and in JSON."""
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    got, out, err = run_cli("inspect", path)
    assert (got, out) == (code, "")
    assert err.startswith(f"error: {path}: ")
    got, out, err = run_cli("inspect", path, "--json")
    assert (got, err) == (code, "")
    assert json.loads(out)["error"]["kind"] == kind


def test_name_of_an_installed_model(run_cli: Any, tmp_path: Path) -> None:
    """NAME is looked up in the store; a name that is not there says what would fetch it."""
    store = tmp_path / "store"
    data = tiny_gguf(tmp_path / "m.gguf").read_bytes()

    def blob(content: bytes, media: str) -> dict[str, Any]:
        hexes = hashlib.sha256(content).hexdigest()
        (store / "blobs").mkdir(parents=True, exist_ok=True)
        (store / "blobs" / f"sha256-{hexes}").write_bytes(content)
        return {"mediaType": media, "digest": f"sha256:{hexes}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "config": blob(b"{}", "application/vnd.docker.container.image.v1+json"),
        "layers": [blob(data, "application/vnd.ollama.image.model")],
    }
    folder = store / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    folder.mkdir(parents=True)
    (folder / "latest").write_text(json.dumps(manifest))
    assert run_cli("inspect", "tiny", "--store", store, "-q") == (0, "llama\n", "")
    code, _, err = run_cli("inspect", "tiny:7b", "--store", store)
    assert code == 5
    assert "installed: tiny:latest" in err


@pytest.mark.slow
def test_gemma(run_cli: Any, gemma: Path) -> None:
    """The real model: figures of its model card and of llama-server's log."""
    document = json.loads(run_cli("inspect", gemma, "--json")[1])
    assert document["parameters"] == 268_098_176
    assert document["file_type"] == {"id": 15, "name": "Q4_K_M"}
    assert {x["kind"]: len(x["indices"]) for x in document["layers"]} == {"sliding": 15, "full": 3}
    assert document["context"] == 32768
