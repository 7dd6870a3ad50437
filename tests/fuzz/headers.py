"""Headers, and everything that commands do with a file whose header they have read."""

import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.corpus import PAGE, Seed, made_up_model, resealed, seeds
from tests.fuzz.engine import Case
from tests.fuzz.mutate import byte_level, set_number
from tqconvert.cli import info
from tqconvert.cli import plan as cli_plan
from tqconvert.errors import IncompleteHeaderError, InvalidGgufError, TqError
from tqconvert.gguf import tag as gguf_tag
from tqconvert.gguf.header import Header, parse_header, read_header
from tqconvert.gguf.shards import find_shards
from tqconvert.gguf.state import look
from tqconvert.gguf.tags import KvTags, is_tagged, is_whole, original_header, read_tags, render_page
from tqconvert.kv.arch import layout_of
from tqconvert.kv.plan import choose_num_ctx, make_plan, read_model
from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.make import from_gguf, with_origin
from tqconvert.modelfile.parse import parse
from tqconvert.modelfile.render import render
from tqconvert.pull.choose import choose_tags
from tqconvert.reference import ModelName
from tqconvert.store.install import apply_install, plan_install
from tqconvert.store.layout import Store
from tqconvert.store.recipe import Recipe, config_blob
from tqconvert.store.source import check_source
from tqconvert.store.verify import verify_file
from tqconvert.summary import Summary, read_summary

LARGE = 1 << 20
"""Seeds with longer headers are taken less often: Gemma's takes 20 ms to parse."""
FILE_MOST = 4 << 20
"""Longer files are not written."""
EVERY_FILE = 16
EVERY_INSTALL = 256
MEMORY = 24 << 30


def scratch(name: str) -> Path:
    """A folder for files, in memory where that can be."""
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    return Path(tempfile.mkdtemp(prefix=f"tqconvert-fuzz-{name}-", dir=shm))


class Headers:
    """The target `headers`."""

    name = "headers"

    def __init__(self, gemma: Path | None = None) -> None:
        found = seeds(gemma)
        self._small = [s for s in found if len(s.data) < LARGE]
        self._large = [s for s in found if len(s.data) >= LARGE]
        self.folder = scratch("headers")

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, rng: random.Random) -> Case:
        """A header that was well-formed before it was changed; some are not changed in form at all."""
        if rng.random() < 0.25:
            return self._torn(made_up_model(rng), rng)
        large = self._large and rng.random() < 0.001
        seed = rng.choice(self._large if large else self._small)
        data = bytearray(seed.data)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            _change_number(data, seed, rng)
        if rng.random() < 0.5:
            for _ in range(rng.choice((1, 1, 2, 4))):
                data = byte_level(data, rng)
        size = seed.size + len(data) - len(seed.data)
        if rng.random() < 0.1:
            size = rng.choice((len(data), len(data) // 2, size - 1, size + PAGE, 1 << 40))
        if len(data) > PAGE and rng.random() < 0.3:
            data[:PAGE] = resealed(bytes(data[:PAGE]))
        return self._torn(Case(bytes(data), max(size, 0)), rng)

    def _torn(self, case: Case, rng: random.Random) -> Case:
        """Sometimes the bytes end early while the file goes on, as in a download."""
        if rng.random() < 0.1:
            return Case(case.data[: rng.randrange(len(case.data) + 1)], case.length)
        return case

    def check(self, case: Case, number: int) -> str:
        """Parse, and use what parses as commands do."""
        as_file = number % EVERY_FILE == 0 and case.length <= FILE_MOST
        try:
            header = parse_header(case.data, case.length)
        except IncompleteHeaderError as e:
            assert len(case.data) < case.length, e.message
            outcome = e.kind
        except TqError as e:
            outcome = e.kind
        else:
            check_bounds(header)
            check_prefix(case, header)
            _use(header, case, number)
            outcome = "parsed"
        if as_file:
            self._use_file(case, number)
        return outcome

    def _use_file(self, case: Case, number: int) -> None:
        path = self.folder / f"{os.getpid()}-00001-of-00002.gguf"
        with path.open("wb") as f:
            f.write(case.data)
            f.truncate(case.length)
        for use in (
            read_header,
            look,
            read_summary,
            read_model,
            find_shards,
            verify_file,
            check_source,
        ):
            typed(use, path)
        typed(self._tag_file, path)
        if number % EVERY_INSTALL == 0:
            typed(self._install, path)
        path.unlink()

    def _tag_file(self, path: Path) -> None:
        """Tag and untag give the first bytes back; what is torn is repaired or left as it is."""
        before, found = path.read_bytes(), look(path)
        original = before[found.start :]
        plan = gguf_tag.plan_tag(path, KvTags("q8_0", "turbo4"))
        gguf_tag.apply_tag(plan)
        again = look(path)
        assert again.kind == "tagged", again.kind
        assert path.read_bytes()[PAGE:] == original
        gguf_tag.apply_untag(gguf_tag.plan_untag(path))
        assert path.read_bytes() == original
        assert look(path).kind == "plain" or found.kind != "plain"

    def _install(self, path: Path) -> None:
        root = self.folder / f"store-{os.getpid()}"
        try:
            apply_install(plan_install(path, ModelName.parse("fuzz:1b"), Store(root)))
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _use(header: Header, case: Case, number: int) -> None:
    """The layers of each, and two of the uses in turn: all of them would take most of the time."""
    typed(layout_of, header)
    for use in {number % len(USES), number // len(USES) % len(USES)}:
        typed(USES[use], header, case, number)


def typed(use: Callable[..., object], *args: object) -> None:
    """Call it; a typed error is an answer too."""
    try:
        use(*args)
    except TqError as e:
        assert e.message


def check_bounds(header: Header) -> None:
    """Nothing that was accepted lies outside the file."""
    for t in header.tensors:
        assert header.data_start + t.offset + t.n_bytes <= header.size, t
        assert t.n_bytes >= 0
        assert t.offset % header.alignment == 0
    assert header.infos_end <= header.size
    for e in header.entries.values():
        assert 24 <= e.start < e.value_at <= e.end <= header.kv_end, e


def check_prefix(case: Case, header: Header) -> None:
    """The header alone is enough, and one byte less is too little."""
    head = case.data[: header.infos_end]
    if len(head) == len(case.data) or len(head) > 1 << 16:
        return
    assert parse_header(head, case.length).tensors == header.tensors
    try:
        parse_header(head[:-1], case.length)
    except IncompleteHeaderError:
        return
    assert len(head) <= 24, "a header without its last byte was accepted"


def plan_it(header: Header, _case: Case, number: int) -> None:
    """What `plan` prints."""
    made = make_plan(header, weights_bytes=header.size, memory=MEMORY)
    cli_plan.render("m", made).encode()
    _dumps({**made.to_json()})
    choose_num_ctx(header, MEMORY if number % 2 else None)


def inspect_it(header: Header, _case: Case, _number: int) -> None:
    """What `inspect` prints, in all its forms."""
    read_tags(header)
    summary = Summary((header,))
    rows = {k: info._key_document(e, e.value) for k, e in header.entries.items()}
    if header.n_kv < 500:
        _dumps(rows)
        "".join(info._short(e) for e in header.entries.values()).encode()
    info._tensor_table(summary.tensors[:100]).encode()
    info._text("m", summary).encode()
    _dumps(info._document(summary))


def make_modelfile(header: Header, _case: Case, _number: int) -> None:
    """The Modelfile of a bare GGUF: it parses back, and lint has nothing against its form."""
    made = with_origin(
        from_gguf(header, from_="./m.gguf", num_ctx=None), header, "tqconvert modelfile"
    )
    text = render(made)
    assert parse(text.encode()) == made
    broken = [f for f in lint(text) if f.code < "MF100"]
    assert not broken, broken


def make_config(header: Header, _case: Case, _number: int) -> None:
    """The config blob of an installed model."""
    json.loads(config_blob(header, Recipe(), ()).data)


def choose(header: Header, _case: Case, _number: int) -> None:
    """The tags that `pull` puts on."""
    for pair in ((None, None), ("q8_0", "turbo4"), ("q8_0,turbo4", "f16")):
        typed(choose_tags, header, *pair)


def tag_in_memory(header: Header, case: Case, _number: int) -> None:
    """A page in front: the tags and the original header come back."""
    tags = KvTags("q8_0", "turbo4", balance=header.text("turboquant.balance") or "none")
    page = render_page(header, tags)
    assert len(page) == PAGE
    assert is_whole(page)
    try:
        tagged = parse_header(page + case.data, PAGE + case.length)
    except InvalidGgufError as e:  # one key or byte too many is all that may be wrong
        raise AssertionError(f"tagged, it is refused: {e.message}") from e
    assert is_tagged(tagged)
    found = read_tags(tagged)
    assert found is not None
    assert (found.type_k, found.type_v) == ("q8_0", "turbo4")
    original = original_header(tagged)
    assert original.entries == header.entries or _has_nan(header)
    assert original.tensors == header.tensors
    assert original.data_start == header.data_start


USES = (plan_it, inspect_it, make_modelfile, make_config, choose, tag_in_memory)


def _has_nan(header: Header) -> bool:
    return "nan" in repr([e.value for e in header.entries.values()])


def _dumps(document: object) -> None:
    json.dumps(document, ensure_ascii=False).encode()


def _change_number(data: bytearray, seed: Seed, rng: random.Random) -> None:
    if not seed.numbers:
        return
    at, width = rng.choice(seed.numbers)
    if rng.random() < 0.1:  # a length that says what another one says
        other, wide = rng.choice(seed.numbers)
        if wide == width:
            data[at : at + width] = data[other : other + width]
            return
    try:
        set_number(data, at, width, seed.order, rng)
    except struct.error:
        return
