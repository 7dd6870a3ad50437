"""Manifests and configs of registries and stores, names, digests, and what stands in headers of answers."""

import contextlib
import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from typing import Any

from tests import builders as b
from tests import stores
from tests.fuzz.engine import Case
from tests.fuzz.headers import scratch, typed
from tests.fuzz.mutate import EDGES, byte_level
from tqconvert.digest import Digest
from tqconvert.errors import TqError
from tqconvert.gguf.header import read_header
from tqconvert.modelfile.make import from_manifest
from tqconvert.modelfile.own import blob_reader, read_own
from tqconvert.modelfile.parse import parse
from tqconvert.modelfile.render import render
from tqconvert.pull.destination import Destination
from tqconvert.pull.plan import plan_pull
from tqconvert.pull.request import Wish
from tqconvert.reference import ModelName
from tqconvert.registry.answers import _media_type
from tqconvert.registry.http import retry_after
from tqconvert.registry.shelf import Shelf
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Manifest
from tqconvert.store.publish import plan_remove, plan_replace
from tqconvert.store.verify import verify_model

OTHER = ModelName.parse("other:1b")
NAME = ModelName.parse("fuzz:1b")
WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, float("inf"), "", "x", "\ud800", "a\x00b", "\n", [], {}, [[]], [{}], {"": ""},
    "sha256:../../../etc/passwd", "sha256:" + "0" * 64, "sha256-" + "a" * 64, "sha256:" + "A" * 64, "sha512:" + "0" * 128,
    "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "/..", "md5:0", "sha256:" + "\u0661" * 64, stores.MANIFEST_TYPE,
    stores.CONFIG_TYPE, "application/vnd.oci.image.index.v1+json", "\x1b[31mred", 10**400,
    *(stores.LAYER_TYPE + kind for kind in ("model", "template", "system", "params", "messages", "license", "projector",
      "adapter", "tensor", "draft", "\x1b", "")), *EDGES,
)  # fmt: skip
PARAMS: tuple[Any, ...] = (
    {"stop": ["a", "b\n"], "num_ctx": 4096}, {"num_ctx": 10**300}, {"num_ctx": True}, {"temperature": float("nan")},
    {"stop": [[1]]}, {"stop": "\ud800"}, {"\ud800": 1}, {"kv_cache_type": "q8_0"}, {"top_k": None}, [], None, "x", 1,
)  # fmt: skip
MESSAGES: tuple[Any, ...] = (
    [{"role": "user", "content": "hi"}], [{"role": "\x00", "content": ["x"]}], [{}], [1], {}, None,
)  # fmt: skip
NAMES = (
    "qwen3.5:27b", "host:5000/ns/m:t", "http://h/n/m:t", "m@sha256:" + "0" * 64, "../../x", "a/b/c/d:e", ":", "/", "@",
    "con:1", "m:" + "t" * 300, "m\x00:t", "hf.co/a/b:Q4", "\u0661:1", "m:..", "https://[::1]:1/a/b:c", "-m:1",
)  # fmt: skip
DATES = (
    "10",
    "9" * 5000,
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Wed, 99 Xxx 99999 99:99:99 +9999",
    ",",
    "(",
    "\x00",
)


class Manifests:
    """The target `manifests`: a store with one sound model and one that is fuzzed."""

    name = "manifests"

    def __init__(self) -> None:
        self.folder = scratch("manifests")
        self._owner = os.getpid()
        self._ready: Store | None = None
        self._model = b.gguf_bytes(b.LLAMA)

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, rng: random.Random) -> Case:
        """JSON of {"manifest", "blobs", "name", "date"}; the manifest may be any text at all."""
        blobs = [
            json.dumps(rng.choice(PARAMS)),
            json.dumps(rng.choice(MESSAGES)),
            _config(rng),
            rng.choice(("t", "\udcff")),
        ]
        value = _manifest(self._model, blobs)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            _change(value, rng)
        text = json.dumps(value)
        if rng.random() < 0.4:
            raw = bytearray(text.encode())
            for _ in range(rng.choice((1, 1, 2, 4))):
                raw = byte_level(
                    raw,
                    rng,
                    (
                        b"{",
                        b"}",
                        b"[",
                        b"]",
                        b'"',
                        b",",
                        b":",
                        b"null",
                        b"\\ud800",
                        b"1e999",
                        b"9" * 5000,
                    ),
                )
            text = raw.decode("latin-1")
        elif rng.random() < 0.02:
            depth = rng.choice((100, 1000, 100_000))
            text = rng.choice(("[" * depth, '{"a":' * depth, "[" * depth + "]" * depth))
        name = bytearray(rng.choice(NAMES).encode())
        date = bytearray(rng.choice(DATES).encode())
        if rng.random() < 0.7:
            name, date = byte_level(name, rng), byte_level(date, rng)
        case = {
            "manifest": text,
            "blobs": blobs,
            "name": name.decode("latin-1"),
            "date": date.decode("latin-1"),
        }
        return Case(json.dumps(case).encode())

    def check(self, case: Case, number: int) -> str:
        """Parse; then all that commands do with a model of this manifest."""
        try:
            value = json.loads(case.data)
            data = value["manifest"].encode("latin-1", "replace")
        except (ValueError, KeyError, TypeError, AttributeError):
            return "no input"  # only while a failure is made smaller
        typed(ModelName.parse, value["name"])
        typed(Digest.parse, value["name"])
        typed(retry_after, {"Retry-After": value["date"]})
        try:
            Manifest.parse(data, subject="m")
        except TqError as e:
            if number % 16 == 0:
                self._in_store(data, value["blobs"], parsed=False)
            return e.kind
        self._in_store(data, value["blobs"], parsed=True)
        return "parsed"

    def _in_store(self, data: bytes, blobs: list[str], *, parsed: bool) -> None:
        with self._store(data, blobs) as store:
            assert OTHER in store.names()
            for use in (plan_remove, verify_model, _modelfile, _own):
                typed(use, store, NAME)
            typed(plan_remove, store, OTHER)
            shelf = Shelf(store)
            assert "1b" in shelf.repositories()["library/other"]
            if parsed:
                manifest = Manifest.parse(data, subject="m")
                _media_type(data)
                for layer in manifest.layers:
                    assert layer.label.isprintable()
                    assert store.blob(layer.digest).parent == store.blobs
                plan_replace(store, OTHER, manifest)
                made = Manifest.make(manifest.config, manifest.layers, manifest)
                assert Manifest.parse(made.data, subject="m").blobs == manifest.blobs
                plan = plan_pull(NAME, NAME, manifest, Destination.in_store(store, NAME), Wish())
                json.dumps(plan.to_json(), ensure_ascii=True).encode()

    @contextlib.contextmanager
    def _store(self, data: bytes, blobs: list[str]) -> Iterator[Store]:
        """A store with the sound model, and the one of this manifest with its small blobs."""
        if self._ready is None or self._owner != os.getpid():
            root, self._owner = self.folder / str(os.getpid()), os.getpid()
            stores.put_model(root, "registry.ollama.ai/library/other/1b", self._model, template="t")
            self._ready = Store(root)
        store = self._ready
        store.manifest_path(NAME).parent.mkdir(parents=True, exist_ok=True)
        store.manifest_path(NAME).write_bytes(data)
        made = [
            stores.put_blob(store.root, text.encode("utf-8", "surrogateescape")) for text in blobs
        ]
        yield store
        for blob in made:
            store.blob(Digest.parse(blob["digest"])).unlink(missing_ok=True)


def _modelfile(store: Store, name: ModelName) -> None:
    """The Modelfile of an installed model whose layers were sent by anybody; it can be written and read."""
    header = read_header(store.blob(store.require_manifest(OTHER).layers_of("model")[0].digest))
    for from_ in ("fuzz:1b", "./m.gguf"):
        made = from_manifest(store, name, header, from_=from_, num_ctx=None)
        assert parse(render(made).encode()) == made


def _own(store: Store, name: ModelName) -> None:
    read_own(store.require_manifest(name), blob_reader(store))


def _word(rng: random.Random) -> Any:
    """A copy: what is put into a tree may be changed there."""
    return copy.deepcopy(rng.choice(WORDS))


def _config(rng: random.Random) -> str:
    value: Any = {
        "model_format": "gguf",
        "model_family": "llama",
        "renderer": "qwen3.5",
        "parser": "x",
        "requires": "0.1",
    }
    if rng.random() < 0.5:
        value[rng.choice([*value])] = _word(rng)
    return json.dumps(_word(rng) if rng.random() < 0.1 else value)


def _manifest(model: bytes, blobs: list[str]) -> dict[str, Any]:
    def layer(media_type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": stores.sha256(data), "size": len(data)}

    raw = [text.encode("utf-8", "surrogateescape") for text in blobs]
    kinds = ("params", "messages", None, "template")
    layers = [layer(stores.LAYER_TYPE + "model", model)]
    layers += [layer(stores.LAYER_TYPE + k, d) for k, d in zip(kinds, raw, strict=True) if k]
    config = layer(stores.CONFIG_TYPE, raw[2])
    return {
        "schemaVersion": 2,
        "mediaType": stores.MANIFEST_TYPE,
        "config": config,
        "layers": layers,
    }


def _change(value: Any, rng: random.Random) -> None:
    """Put another word into a random place of the tree."""
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and rng.random() < 0.85:
            place = place[key]
            continue
        kind = rng.randrange(4)
        if kind == 0 and isinstance(place, dict):
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[rng.choice(("annotations", "urls", "layers", "manifests", "size", "\ud800"))] = (
                _word(rng)
            )
        elif kind == 2 and isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        else:
            place[key] = _word(rng)
        return
