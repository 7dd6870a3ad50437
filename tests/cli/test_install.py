"""The commands install, verify and share: what they print, and with which code they end."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import LLAMA, tiny_gguf
from stores import check_store, put_model, snapshot

Run = Callable[..., tuple[int, str, str]]

PATH = "registry.ollama.ai/library/tiny/1b"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a GGUF and a Modelfile; the store is OLLAMA_MODELS."""
    tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\nTEMPLATE {{ .Prompt }}\nLICENSE MIT\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    return tmp_path


def test_install_says_what_it_did_to_the_file(folder: Path, run_cli: Run) -> None:
    """The method and what it means; then unchanged; then the store is sound."""
    code, out, err = run_cli("install", "m.gguf", "--as", "tiny:1b", "-f", "Modelfile")
    assert code == 0, err
    assert out.startswith("tiny:1b: installed (")
    assert "model: hardlink:" in out or "model: reflink:" in out
    assert "no TEMPLATE" not in out
    assert "  publish  manifest" in err
    code, out, _ = run_cli("install", "m.gguf", "--as", "tiny:1b", "-f", "Modelfile")
    assert (code, out.startswith("tiny:1b: unchanged")) == (0, True)
    assert check_store(folder / "store") == {PATH}
    code, out, _ = run_cli("verify", "tiny:1b")
    assert (code, out.startswith("tiny:1b: sound (sha256:")) == (0, True)


def test_a_model_without_a_template_says_so(folder: Path, run_cli: Run) -> None:
    """Ollama before 0.30 would prompt it as it is."""
    _, out, _ = run_cli("install", "m.gguf", "--as", "tiny:1b")
    assert "no TEMPLATE or RENDERER" in out


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_one_way_can_be_asked_for(folder: Path, run_cli: Run, link: str) -> None:
    """A copy is a file of its own, a symbolic link only where it is asked for."""
    args = ("install", "m.gguf", "--as", "tiny:1b", "--link", link, "--json")
    code, out, _ = run_cli(*args)
    document = json.loads(out)
    assert (code, document["method"]) == (0, link)
    blob = folder / "store" / "blobs" / document["model"]["digest"].replace(":", "-")
    assert blob.is_symlink() == (link == "symlink")
    assert blob.samefile(folder / "m.gguf") == (link != "copy")
    assert json.loads(run_cli("verify", "tiny:1b", "--json")[1])["ok"]


def test_dry_run_is_the_plan_and_nothing_else(folder: Path, run_cli: Run) -> None:
    """Same digests as the real run, which follows."""
    args = ("install", "m.gguf", "--as", "tiny:1b", "-f", "Modelfile", "--json")
    code, out, _ = run_cli(*args, "--dry-run")
    plan = json.loads(out)
    assert (code, plan["schema"], plan["dry_run"]) == (0, "tqconvert.install/1", True)
    assert [s["action"] for s in plan["steps"]][::4] == ["link", "publish"]
    assert not (folder / "store").exists()
    done = json.loads(run_cli(*args)[1])
    assert done["manifest"] == plan["manifest"]
    assert isinstance(done["bytes_written"], int)


def test_another_models_name_needs_yes(folder: Path, run_cli: Run) -> None:
    """Exit 6 with the two ways out; the plan was shown."""
    put_model(folder / "store", PATH, b"ollama's")
    before = snapshot(folder / "store")
    code, _, err = run_cli("install", "m.gguf", "--as", "tiny:1b")
    assert code == 6
    assert "--yes replaces it, --as installs under another name" in err
    assert "needs --yes" in err
    assert snapshot(folder / "store") == before
    code, out, _ = run_cli("install", "m.gguf", "--as", "tiny:1b", "--yes")
    assert (code, "replaced" in out) == (0, True)
    assert check_store(folder / "store") == {PATH}


def test_remove_undoes_install(folder: Path, run_cli: Run) -> None:
    """The user's file stays; nothing is left in blobs/ or manifests/."""
    run_cli("install", "m.gguf", "--as", "tiny:1b")
    code, out, _ = run_cli("install", "--remove", "tiny:1b", "--dry-run")
    assert (code, "would be removed" in out) == (0, True)
    assert check_store(folder / "store") == {PATH}
    code, out, _ = run_cli("install", "--remove", "tiny:1b")
    assert (code, "removed" in out) == (0, True)
    assert snapshot(folder / "store") == {}
    assert (folder / "m.gguf").exists()
    assert run_cli("install", "--remove", "tiny:1b")[0] == 5


def test_a_model_of_ollama_is_removed_with_yes_only(folder: Path, run_cli: Run) -> None:
    """It may be the only copy of a download."""
    put_model(folder / "store", PATH, b"downloaded")
    code, _, err = run_cli("install", "--remove", "tiny:1b")
    assert (code, "--yes" in err) == (6, True)
    assert check_store(folder / "store") == {PATH}
    code, out, _ = run_cli("install", "--remove", "tiny:1b", "--yes", "--json")
    assert (code, len(json.loads(out)["removed"])) == (0, 2)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["install", "m.gguf"], 2),
        (["install", "--as", "tiny"], 2),
        (["install", "m.gguf", "--as", "../x"], 2),
        (["install", "m.gguf", "--as", "tiny@sha256:" + "0" * 64], 2),
        (["install", "m.gguf", "--remove", "tiny"], 2),
        (["install", "m.gguf", "--as", "tiny", "--link", "magic"], 2),
        (["install", "none.gguf", "--as", "tiny"], 5),
        (["install", "Modelfile", "--as", "tiny"], 4),
        (["install", "shard.gguf", "--as", "tiny"], 6),
        (["install", "m.gguf", "--as", "tiny", "-f", "none"], 5),
        (["install", "m.gguf", "--as", "tiny", "-f", "bad"], 4),
        (["verify", "none.gguf"], 5),
        (["verify", "tiny"], 5),
        (["verify", "Modelfile.gguf"], 4),
        (["share", "--listen", "nonsense:port"], 2),
        (["share", "--listen", "127.0.0.1:0"], 5),
    ],
)
def test_errors_have_their_codes(folder: Path, run_cli: Run, args: list[str], code: int) -> None:
    """And write nothing; --json gives one error document."""
    tiny_gguf(folder / "shard.gguf", {**LLAMA, "split.count": (2, 3)})
    (folder / "bad").write_text("FROM x\nPARAMETER tempreature 1\n")
    (folder / "Modelfile.gguf").write_text("FROM x\n")
    got, _, err = run_cli(*args)
    assert got == code, err
    assert snapshot(folder / "store") == {}
    if code != 4 or args[0] != "verify":
        got, out, _ = run_cli(*args, "--json")
        assert got == code
        assert json.loads(out)["error"]["message"]


def test_verify_lists_every_problem(folder: Path, run_cli: Run) -> None:
    """Exit 4; each problem has a line, and a check in the JSON document."""
    run_cli("install", "m.gguf", "--as", "tiny:1b", "-f", "Modelfile", "--link", "copy")
    for blob in (folder / "store" / "blobs").iterdir():
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
    code, out, _ = run_cli("verify", "tiny:1b")
    assert (code, out.splitlines()[0].split(" (")[0]) == (4, "tiny:1b: 4 problems")
    assert out.count("\n  BAD  ") == 4
    code, out, _ = run_cli("verify", "tiny:1b", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (4, False)
    assert [c["check"] for c in document["checks"] if not c["ok"]] == ["digest"] * 4


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user who is not root")
def test_a_read_only_store_is_a_clear_error(folder: Path, run_cli: Run) -> None:
    """Exit 9, with the folder's name."""
    (folder / "store").mkdir(mode=0o555)
    code, _, err = run_cli("install", "m.gguf", "--as", "tiny:1b")
    assert (code, str(folder / "store") in err) == (9, True)


def test_a_file_where_the_store_should_be_is_a_clear_error(folder: Path, run_cli: Run) -> None:
    """Exit 9, not a traceback."""
    (folder / "store").write_text("x")
    code, _, err = run_cli("install", "m.gguf", "--as", "tiny:1b")
    assert (code, "store" in err) == (9, True)


def test_a_bad_modelfile_is_named(folder: Path, run_cli: Run) -> None:
    """The error has file and line; the hint is a command that can be run as it stands."""
    (folder / "Modelfile").write_text("FROM ./m.gguf\nPARAMETER foo 1\n")
    code, _, err = run_cli("install", "m.gguf", "--as", "tiny:1b", "-f", "Modelfile")
    assert code == 4
    assert err == (
        "error: Modelfile: line 2: unknown PARAMETER foo\n"
        "  hint: tqconvert modelfile --lint Modelfile\n"
    )


def test_share_counts_in_english(
    folder: Path, run_cli: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 models, 1 model, 2 models."""
    from tqconvert.cli.output import Output
    from tqconvert.cli.share import announce
    from tqconvert.registry.serve import serve_store
    from tqconvert.store.layout import Store

    (folder / "store").mkdir()
    with serve_store(Store(folder / "store")) as server:
        for count in ("0 models", "1 model", "2 models"):
            announce(server, Store(folder / "store"), Output("share"))
            assert capsys.readouterr().out.startswith(f"serving {count} of ")
            run_cli("install", "m.gguf", "--as", f"tiny:{count[0]}b")
