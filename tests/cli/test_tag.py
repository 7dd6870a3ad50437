"""`tqconvert tag` and `untag` as a user meets them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import I32, LLAMA, U16, keys_of, tiny_gguf

from tqconvert import fs
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import KvTags, is_tagged, read_tags

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small llama."""
    return tiny_gguf(tmp_path / "m.gguf")


@pytest.fixture
def can_insert(tmp_path: Path) -> None:
    """Skip where the method shown would be another."""
    if not fs.can_insert(tmp_path, 4096):
        pytest.skip("needs insert-range (ext4, xfs) in the temporary folder")


def tags_of(path: Path) -> KvTags | None:
    """The tags in the file."""
    return read_tags(read_header(path))


@pytest.mark.usefixtures("can_insert")
def test_text_names_the_method_the_types_and_that_nobody_measured_them(
    run_cli: Cli, file: Path
) -> None:
    """The policy's default, tag and untag, a second run of each."""
    original = file.read_bytes()
    code, out, err = run_cli("tag", file)
    assert (code, err) == (0, "")
    assert out.startswith(f"{file}: tagged by insert\n  K q8_0, V turbo4 (unmeasured)\n")
    assert "  because: " in out
    assert tags_of(file) == KvTags("q8_0", "turbo4")
    assert run_cli("tag", file)[1].startswith(f"{file}: unchanged, it has these tags\n")
    _, out, _ = run_cli("tag", file, "--type-k", "Q8_0", "--type-v", "turbo3")
    assert out == (
        f"{file}: tagged by edit\n  K q8_0, V turbo3 (unmeasured)\n  because: given by hand\n"
    )
    assert run_cli("untag", file)[:2] == (0, f"{file}: untagged by collapse\n")
    assert file.read_bytes() == original
    assert run_cli("untag", file)[:2] == (0, f"{file}: nothing to do, it has no tags\n")


@pytest.mark.usefixtures("can_insert")
def test_json_is_one_document(run_cli: Cli, file: Path) -> None:
    """What was done, by which method, with which lease."""
    code, out, err = run_cli("tag", file, "--type-k", "q8_0", "--type-v", "q8_0", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "schema": "tqconvert.tag/1", "file": str(file), "output": str(file), "dry_run": False,
        "method": "insert", "why": "the file system grows files at their start without moving data",
        "steps": [f"insert 4096 bytes at the start of {file}", "write a page of 4096 bytes"],
        "repaired": False, "bytes_written": 4096, "lease": True, "shards": 1, "type_k": "q8_0",
        "type_v": "q8_0", "balance": "none", "measured": False, "evidence": "unmeasured",
        "reasons": ["given by hand"],
    }  # fmt: skip
    document = json.loads(run_cli("untag", file, "--json")[1])
    assert (document["schema"], document["method"]) == ("tqconvert.untag/1", "collapse")


def test_quiet_prints_the_path(run_cli: Cli, file: Path, tmp_path: Path) -> None:
    """For `$(...)`, also of another file."""
    out = tmp_path / "out.gguf"
    assert run_cli("tag", file, "-q", "-o", out)[:2] == (0, f"{out}\n")
    assert not is_tagged(read_header(file))
    assert run_cli("untag", out, "-q")[:2] == (0, f"{out}\n")


def unread(file: Path) -> list[int]:
    """What stat tells of a file but for when it was last read, which reading changes."""
    found = file.stat()
    return [
        found.st_mode,
        found.st_ino,
        found.st_nlink,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    ]


def test_dry_run_prints_the_steps_and_changes_nothing(run_cli: Cli, file: Path) -> None:
    """Neither the bytes nor the time of the last change."""
    before = unread(file)
    code, out, _ = run_cli("tag", file, "-n")
    assert code == 0
    assert "would be tagged by" in out
    assert "  step: " in out
    assert unread(file) == before
    assert json.loads(run_cli("tag", file, "-n", "--json")[1])["dry_run"] is True
    assert unread(file) == before


def test_a_type_per_layer(run_cli: Cli, file: Path) -> None:
    """As many names as layers; the text counts them."""
    code, out, _ = run_cli("tag", file, "--type-k", "q8_0,f16", "--type-v", "turbo4,turbo4")
    assert code == 0
    assert "K q8_0 x1 + f16 x1, V turbo4 x2" in out
    assert tags_of(file) == KvTags(("q8_0", "f16"), ("turbo4", "turbo4"))


def test_one_side_given_leaves_the_other_to_the_policy(run_cli: Cli, file: Path) -> None:
    """--type-v alone keeps the policy's K."""
    assert run_cli("tag", file, "--type-v", "q8_0")[0] == 0
    assert tags_of(file) == KvTags("q8_0", "q8_0")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--type-k", "turbo5"), 2, "turbo5: not a KV cache type"),
        (("--type-k", "q8_0,q8_0,q8_0"), 2, "3 types for 2 layers"),
        (("--evidence", "/nowhere.json"), 5, "no such file"),
    ],
)
def test_bad_options_change_nothing(
    run_cli: Cli, file: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    """The error names what is wrong."""
    before = unread(file)
    got, out, err = run_cli("tag", file, *options)
    assert (got, out) == (code, "")
    assert words in err
    assert unread(file) == before


def test_a_type_that_does_not_divide_the_head_dimension_is_refused(
    run_cli: Cli, tmp_path: Path
) -> None:
    """turbo4 packs 128 values; a head dimension of 64 gets q8_0 on both sides by the policy."""
    keys = keys_of(
        "llama", block_count=2, context_length=4096, embedding_length=128, attention__head_count=2,
        attention__head_count_kv=1,
    )  # fmt: skip
    file = tiny_gguf(tmp_path / "m.gguf", keys)
    code, _, err = run_cli("tag", file, "--type-v", "turbo4")
    assert code == 2
    assert "--type-v turbo4: turbo4 packs 128 values" in err
    assert "head dimension 64" in err
    assert run_cli("tag", file)[0] == 0
    assert tags_of(file) == KvTags("q8_0", "q8_0")


def test_a_family_on_the_deny_list_is_tagged_by_hand_only(run_cli: Cli, tmp_path: Path) -> None:
    """Exit code 1 with the evidence; the types given by hand are written."""
    arch = {k.replace("llama", "gpt-oss"): v for k, v in LLAMA.items()}
    file = tiny_gguf(tmp_path / "m.gguf", {**arch, "general.architecture": "gpt-oss"})
    code, out, err = run_cli("tag", file)
    assert (code, out) == (1, "")
    assert "not to be tagged" in err
    assert "--type-k TYPE --type-v TYPE" in err
    assert not is_tagged(read_header(file))
    assert run_cli("tag", file, "--type-k", "q8_0", "--type-v", "q8_0")[0] == 0


def test_evidence_makes_the_tags_measured(run_cli: Cli, file: Path, tmp_path: Path) -> None:
    """Its white space is dropped; what is too long for the page is refused."""
    evidence = tmp_path / "e.json"
    evidence.write_text('{\n  "kld_mean": 0.0123\n}')
    code, out, _ = run_cli("tag", file, "--evidence", evidence)
    assert code == 0
    assert "(measured)" in out
    tags = tags_of(file)
    assert tags
    assert tags.evidence == '{"kld_mean":0.0123}'
    evidence.write_text(json.dumps("x" * 5000))
    code, _, err = run_cli("tag", file, "--evidence", evidence)
    assert code == 2
    assert "expected at most 4096" in err
    evidence.write_text("{")
    assert "not JSON" in run_cli("tag", file, "--evidence", evidence)[2]


def test_refusals_name_the_way_that_works(run_cli: Cli, file: Path) -> None:
    """A hard link: exit code 6, the reason, -o."""
    (file.parent / "second.gguf").hardlink_to(file)
    code, _, err = run_cli("tag", file)
    assert code == 6
    assert "has 2 hard links" in err
    assert "hint: write another file: -o OUT" in err
    assert run_cli("untag", file)[0] == 0, "an untagged file has nothing to lose"
    tagged = file.parent / "tagged.gguf"
    assert run_cli("tag", file, "-o", tagged)[0] == 0
    (file.parent / "third.gguf").hardlink_to(tagged)
    code, out, _ = run_cli("untag", tagged, "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (6, "refused")


@pytest.mark.parametrize(("command", "code"), [("tag", 4), ("untag", 4)])
def test_a_file_that_is_no_gguf(run_cli: Cli, tmp_path: Path, command: str, code: int) -> None:
    """An error of its own kind."""
    path = tmp_path / "page.gguf"
    path.write_text("<html>" + " " * 5000)
    got, _, err = run_cli(command, path)
    assert got == code
    assert "HTML" in err


def test_an_interrupted_tag_is_reported_and_repaired(run_cli: Cli, file: Path) -> None:
    """`untag` gives the original; `tag` finishes the work; a dry run leaves it."""
    original = file.read_bytes()
    file.write_bytes(bytes(4096) + original)
    assert run_cli("tag", file, "-n")[0] == 0
    assert file.read_bytes() == bytes(4096) + original
    code, out, _ = run_cli("untag", file)
    assert code == 0
    assert "an interrupted run had left it unreadable; it is whole again" in out
    assert file.read_bytes() == original
    file.write_bytes(bytes(4096) + original)
    assert json.loads(run_cli("tag", file, "--json")[1])["repaired"] is True
    assert file.read_bytes()[4096:] == original


def test_of_a_sharded_model_the_first_shard_changes(run_cli: Cli, tmp_path: Path) -> None:
    """Whichever is named; the others keep their bytes."""
    paths = []
    for i in range(3):
        split: dict[str, Any] = {
            "split.no": (U16, i), "split.count": (U16, 3), "split.tensors.count": (I32, 3),
        }  # fmt: skip
        path = tmp_path / f"m-{i + 1:05d}-of-00003.gguf"
        keys = {**(LLAMA if i == 0 else {}), **split}
        paths.append(tiny_gguf(path, keys, tensors={f"t{i}": (32, 2)}))
    before = [p.read_bytes() for p in paths]
    code, out, _ = run_cli("tag", paths[1])
    assert code == 0
    assert f"{paths[0]} (the first of 3 shards): tagged by" in out
    assert [p.read_bytes() for p in paths[1:]] == before[1:]
    assert paths[0].read_bytes()[4096:] == before[0]
    assert run_cli("untag", paths[2])[0] == 0
    assert [p.read_bytes() for p in paths] == before
    paths[2].unlink()
    code, _, err = run_cli("tag", paths[0])
    assert code == 5
    assert "m-00003-of-00003.gguf: missing shard" in err
