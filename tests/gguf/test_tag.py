"""`plan_tag`, `apply_tag` and their inverses on real file systems; what is refused and why."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import images
import pytest
from builders import LLAMA, U16, gguf_bytes, tiny_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert import filelocks, fs
from tqconvert.digest import digest_bytes, digest_path
from tqconvert.errors import (
    InvalidGgufError,
    LockedError,
    NotFoundError,
    RefusedError,
    StorageError,
    UsageError,
)
from tqconvert.gguf.header import parse_header
from tqconvert.gguf.rewrite import temporary_for
from tqconvert.gguf.state import look
from tqconvert.gguf.tag import apply_tag, apply_untag, plan_tag, plan_untag, recover
from tqconvert.gguf.tags import KEYS, PAGE, KvTags, render_page

TAGS = KvTags("q8_0", "turbo4")
OTHER = KvTags("turbo4", ("turbo3", "turbo4"), evidence='{"kld": 0.01}')
ORIGINAL = gguf_bytes(LLAMA, {"a": (64, 64), "b": (32, 3)})


def tagged(tags: KvTags = TAGS, original: bytes = ORIGINAL) -> bytes:
    """The file that tagging must give."""
    return render_page(parse_header(original, len(original)), tags) + original


def model(folder: Path, content: bytes = ORIGINAL) -> Path:
    """A file with that content."""
    path = folder / "m.gguf"
    path.write_bytes(content)
    return path


@contextmanager
def opened_elsewhere(path: Path) -> Iterator[None]:
    """Another process has the file open."""
    code = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"open\n"
        yield
        process.communicate(b"")


def round_trip(folder: Path, *, tag: str, edit: str, untag: str) -> None:
    """Tag, tag again, change the tags, untag: the methods, and the bytes after each."""
    path = model(folder)
    assert apply_tag(plan_tag(path, TAGS)).method == tag
    assert path.read_bytes() == tagged()
    assert digest_path(path, offset=PAGE) == digest_bytes(ORIGINAL)
    inode = path.stat().st_ino
    again = apply_tag(plan_tag(path, TAGS))
    assert (again.method, again.bytes_written, path.stat().st_ino) == ("unchanged", 0, inode)
    assert apply_tag(plan_tag(path, OTHER)).method == edit
    assert path.read_bytes() == tagged(OTHER)
    assert path.stat().st_ino == inode
    assert apply_untag(plan_untag(path)).method == untag
    assert path.read_bytes() == ORIGINAL
    assert apply_untag(plan_untag(path)).method == "unchanged"
    assert list(folder.iterdir()) == [path]


def test_insert_edit_and_collapse_where_the_file_system_can(tmp_path: Path) -> None:
    """ext4 and xfs: the file keeps its inode all the way."""
    if not fs.can_insert(tmp_path, PAGE):
        pytest.skip("needs insert-range (ext4, xfs) in the temporary folder")
    path = model(tmp_path)
    inode = path.stat().st_ino
    round_trip(tmp_path, tag="insert", edit="edit", untag="collapse")
    assert path.stat().st_ino == inode


def test_copy_on_tmpfs(tmp_path: Path) -> None:
    """A tmpfs has neither range insertion nor reflinks."""
    import tempfile

    if not Path("/dev/shm").is_dir():
        pytest.skip("needs a tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        round_trip(Path(folder), tag="copy", edit="edit", untag="copy")


def test_reflink_on_btrfs(tmp_path: Path) -> None:
    """A btrfs shares data and cannot insert."""
    with images.mounted("btrfs", tmp_path) as root:
        (root / "d").mkdir()
        round_trip(root / "d", tag="reflink", edit="edit", untag="reflink")


def test_insert_and_reflink_on_xfs(tmp_path: Path) -> None:
    """An xfs can do both: insertion in place, shared data for another file."""
    with images.mounted("xfs", tmp_path) as root:
        folder = root / "d"
        folder.mkdir()
        round_trip(folder, tag="insert", edit="edit", untag="collapse")
        path, out = folder / "m.gguf", folder / "out.gguf"
        result = apply_tag(plan_tag(path, TAGS, output=out))
        assert (result.method, result.bytes_written) == ("reflink", PAGE)
        assert out.read_bytes() == tagged()
        assert path.read_bytes() == ORIGINAL
        back = folder / "back.gguf"
        assert apply_untag(plan_untag(out, output=back)).method == "reflink"
        assert back.read_bytes() == ORIGINAL


def test_the_plan_changes_nothing(tmp_path: Path) -> None:
    """Neither the file nor its folder."""
    path = model(tmp_path)
    before = path.stat()
    plan = plan_tag(path, TAGS)
    assert plan.steps
    assert plan.why
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_ctime_ns) == (
        before.st_ino, before.st_size, before.st_ctime_ns,
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=25, deadline=None)
@given(
    n_words=st.integers(0, 600), tensors=st.lists(st.integers(1, 40), max_size=3),
    version=st.sampled_from([2, 3]), big=st.booleans(), extra=st.binary(max_size=9),
)  # fmt: skip
def test_any_small_file_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, n_words: int, tensors: list[int], version: int,
    big: bool, extra: bytes,
) -> None:  # fmt: skip
    """Random headers, byte orders, versions and bytes after the last tensor."""
    keys = {**LLAMA, "words": ["w"] * n_words}
    shapes = {f"t{i}": (32, n) for i, n in enumerate(tensors)}
    original = gguf_bytes(keys, shapes, version=version, big_endian=big) + extra
    path = model(tmp_path_factory.mktemp("any"), original)
    apply_tag(plan_tag(path, OTHER))
    assert path.read_bytes() == tagged(OTHER, original)
    apply_untag(plan_untag(path))
    assert path.read_bytes() == original


def test_mode_of_the_file_is_kept(tmp_path: Path) -> None:
    """A copy that takes the name has the old permission bits."""
    path = model(tmp_path)
    path.chmod(0o640)
    out = tmp_path / "out.gguf"
    apply_tag(plan_tag(path, TAGS, output=out))
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_leads_to_the_file(tmp_path: Path) -> None:
    """The link stays a link."""
    path = model(tmp_path)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    apply_tag(plan_tag(link, TAGS))
    assert link.is_symlink()
    assert path.read_bytes() == tagged()


def test_output_writes_another_file_and_leaves_the_source(tmp_path: Path) -> None:
    """Also from a read-only file; an existing one is replaced only when asked."""
    path, out = model(tmp_path), tmp_path / "out.gguf"
    path.chmod(0o444)
    apply_tag(plan_tag(path, TAGS, output=out))
    assert path.read_bytes() == ORIGINAL
    assert out.read_bytes() == tagged()
    assert os.stat(out).st_mode & 0o200
    with pytest.raises(RefusedError, match="exists") as caught:
        plan_tag(path, OTHER, output=out)
    assert caught.value.hint == "--yes replaces it"
    apply_tag(plan_tag(path, OTHER, output=out, replace=True))
    assert out.read_bytes() == tagged(OTHER)
    with pytest.raises(UsageError, match="the file itself"):
        plan_tag(path, TAGS, output=path)
    with pytest.raises(UsageError, match="no such folder"):
        plan_tag(path, TAGS, output=tmp_path / "no" / "out.gguf")


def test_hard_links_are_refused(tmp_path: Path) -> None:
    """All names would change; -o works."""
    path = model(tmp_path)
    (tmp_path / "second.gguf").hardlink_to(path)
    with pytest.raises(RefusedError, match="2 hard links") as caught:
        plan_tag(path, TAGS)
    assert "-o OUT" in str(caught.value.hint)
    assert apply_tag(plan_tag(path, TAGS, output=tmp_path / "out.gguf")).path.exists()


@pytest.mark.parametrize(
    ("name", "store"),
    [
        (f"blobs/sha256-{'a' * 64}", "Ollama"),
        (f"models--org--name/blobs/{'b' * 64}", "Hugging Face"),
        (f"blobs/sha256/{'c' * 64}", "OCI"),
    ],
)
def test_files_named_by_their_digest_are_refused(tmp_path: Path, name: str, store: str) -> None:
    """Also through a symbolic link, as Hugging Face's cache has them."""
    blob = tmp_path / name
    blob.parent.mkdir(parents=True)
    link = tmp_path / "model.gguf"
    link.symlink_to(tiny_gguf(blob))
    for path in (blob, link):
        with pytest.raises(RefusedError, match=store) as caught:
            plan_tag(path, TAGS)
        assert "-o OUT" in str(caught.value.hint)
        assert plan_untag(path).method == "unchanged"
    tagged = apply_tag(plan_tag(blob, TAGS, output=tmp_path / "tagged.gguf")).path
    tagged.replace(blob)
    for path in (blob, link):
        with pytest.raises(RefusedError, match=store):
            plan_untag(path)


def test_read_only_files_are_refused(tmp_path: Path) -> None:
    """By their mode, which root could pass over."""
    path = model(tmp_path)
    path.chmod(0o444)
    with pytest.raises(RefusedError, match="read-only"):
        plan_tag(path, TAGS)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no leases")
@pytest.mark.parametrize("content", [ORIGINAL, tagged(OTHER)], ids=["insert", "edit"])
def test_files_open_elsewhere_are_refused(tmp_path: Path, content: bytes) -> None:
    """A server that maps the file would see its bytes move; nothing is written."""
    path = model(tmp_path, content)
    plan = plan_tag(path, TAGS)
    with opened_elsewhere(path), pytest.raises(RefusedError, match="open in another process"):
        apply_tag(plan)
    assert path.read_bytes() == content
    result = apply_tag(plan)
    assert result.lease is True
    assert path.read_bytes() == tagged()


def test_a_file_that_changed_since_the_plan_is_left_alone(tmp_path: Path) -> None:
    """The plan holds for the file that was looked at."""
    path = model(tmp_path)
    plan = plan_tag(path, TAGS)
    path.write_bytes(ORIGINAL + b"more")
    with pytest.raises(LockedError, match="changed"):
        apply_tag(plan)
    assert path.read_bytes() == ORIGINAL + b"more"


def test_a_leftover_is_removed_unless_somebody_writes_it(tmp_path: Path) -> None:
    """The lock on the temporary file tells a killed run from one that goes on."""
    path = model(tmp_path)
    left = temporary_for(path)
    left.write_bytes(b"half a copy")
    fd = os.open(left, os.O_RDWR)
    try:
        assert filelocks.lock(fd)
        with pytest.raises(LockedError):
            apply_tag(plan_tag(path, TAGS))
    finally:
        os.close(fd)
    assert path.read_bytes() == ORIGINAL
    found = recover(path)
    assert found
    assert found.method is None
    assert not left.exists()
    assert recover(path) is None


def test_a_name_as_long_as_names_can_be_still_has_a_temporary(tmp_path: Path) -> None:
    """255 bytes leave no room for more in front and behind."""
    path = tmp_path / ("n" * 250 + ".gguf")
    assert len(os.fsencode(temporary_for(path).name)) <= 255
    out = tmp_path / "out.gguf"
    out.write_bytes(ORIGINAL)
    apply_tag(plan_tag(out, TAGS, output=path))
    assert path.read_bytes() == tagged()


@pytest.mark.parametrize(
    "torn",
    [
        bytes(PAGE),
        tagged()[:100] + bytes(PAGE - 100),
        tagged()[:512] + bytes(PAGE - 512),
        bytes(512) + tagged()[512:PAGE],
        tagged(OTHER)[:200] + tagged()[200:PAGE],
        tagged(OTHER)[:300] + tagged()[300:PAGE],
    ],
    ids=["zeros", "100", "sector", "all-but-a-sector", "mixed-200", "mixed-300"],
)
def test_a_torn_page_is_recognised_and_repaired(tmp_path: Path, torn: bytes) -> None:
    """Zeros, part of a page, two pages mixed: `recover` gives the original, `tag` the tags."""
    path = model(tmp_path, torn + ORIGINAL)
    assert look(path).kind == "interrupted"
    found = recover(path)
    assert found
    assert found.method in ("collapse", "copy", "reflink")
    assert path.read_bytes() == ORIGINAL
    path.write_bytes(torn + ORIGINAL)
    plan = plan_tag(path, TAGS)
    assert plan.repairs
    assert apply_tag(plan).method == "edit"
    assert path.read_bytes() == tagged()


def test_every_cut_of_a_page_is_recognised(tmp_path: Path) -> None:
    """At each 64th byte: what is written so far over zeros, or over another page."""
    path = tmp_path / "m.gguf"
    new, old = tagged(OTHER)[:PAGE], tagged()[:PAGE]
    for before in (bytes(PAGE), old):
        for at in range(64, PAGE, 64):
            path.write_bytes(new[:at] + before[at:] + ORIGINAL)
            assert look(path).kind == "interrupted", at


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", bytes(9000), b"PK" + bytes(PAGE - 2) + ORIGINAL, bytes(PAGE) + ORIGINAL[:-50],
     tagged()[:-50]],
    ids=["empty", "magic", "zeros", "other-program", "cut-behind-zeros", "cut"],
)  # fmt: skip
def test_what_is_no_interrupted_tag_is_not_repaired(tmp_path: Path, content: bytes) -> None:
    """An error, and every byte as it was."""
    path = model(tmp_path, content)
    for step in (recover, plan_untag, lambda p: plan_tag(p, TAGS)):
        with pytest.raises(InvalidGgufError):
            step(path)
    assert path.read_bytes() == content


def test_keys_that_another_program_moved_are_refused(tmp_path: Path) -> None:
    """A rewritten header has our keys outside a page; both commands name one and the way out."""
    path = model(tmp_path, gguf_bytes({**LLAMA, KEYS[0]: "q8_0"}))
    before = path.read_bytes()
    for step in (plan_untag, lambda p: plan_tag(p, TAGS)):
        with pytest.raises(RefusedError, match=KEYS[0]) as caught:
            step(path)
        assert "gguf-new-metadata --remove-metadata" in str(caught.value.hint)
    assert path.read_bytes() == before


def test_later_shards_and_missing_files_are_refused(tmp_path: Path) -> None:
    """Runtimes read the keys of the first shard."""
    path = model(tmp_path, gguf_bytes({**LLAMA, "split.no": (U16, 1), "split.count": (U16, 2)}))
    with pytest.raises(RefusedError, match="shard 2"):
        plan_tag(path, TAGS)
    with pytest.raises(NotFoundError):
        plan_tag(tmp_path / "none.gguf", TAGS)
    with pytest.raises(NotFoundError):
        plan_tag(tmp_path, TAGS)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The file can grow, but there is no block for the page: the growth is taken back."""
    with images.mounted("ext4", tmp_path) as root:
        path = model(root)
        os.sync()
        with (root / "filler").open("wb", buffering=0) as f:
            for size in (1 << 20, 1 << 12):
                while True:
                    try:
                        f.write(bytes(size))
                        os.fsync(f.fileno())
                    except OSError:
                        break
        plan = plan_tag(path, TAGS)
        assert plan.method == "insert"
        with pytest.raises(StorageError, match="No space left"):
            apply_tag(plan)
        assert path.read_bytes() == ORIGINAL
        with pytest.raises(StorageError, match=r"copy needs"):
            apply_tag(plan_tag(path, TAGS, output=root / "out.gguf"))
        assert sorted(p.name for p in root.iterdir()) == ["filler", "lost+found", "m.gguf"]


def test_a_file_size_limit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A copy that hits RLIMIT_FSIZE is taken back; the hint names the limit."""
    path = model(tmp_path)
    code = (
        "import resource, sys; from tqconvert.gguf.tag import *; from tqconvert.gguf.tags import *\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(ORIGINAL) + 100},) * 2)\n"
        "from tqconvert.errors import StorageError\n"
        "try: apply_tag(plan_tag(sys.argv[1], KvTags('q8_0', 'q8_0'), output=sys.argv[1] + '.out'))\n"
        "except StorageError as e: print(e, '|', e.hint)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert "File too large | raise the file size limit" in ran.stdout, ran
    assert path.read_bytes() == ORIGINAL
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_checks_for_room_first(tmp_path: Path) -> None:
    """A sparse model larger than the file system: the need is named, nothing is left."""
    with images.mounted("btrfs", tmp_path) as root:
        path = tmp_path / "big.gguf"
        path.write_bytes(gguf_bytes(LLAMA, {}))
        os.truncate(path, 1 << 30)
        plan = plan_tag(path, TAGS, output=root / "out.gguf")
        assert (plan.method, plan.why) == ("copy", "the new file is on another file system")
        with pytest.raises(StorageError, match=r"free \(a copy needs 1.0 GiB\)"):
            apply_tag(plan)
        assert not list(root.iterdir())
