"""A model of Hugging Face as a manifest: its files by their sha256, the small blobs made here.

The Hub knows no configs and templates. They are made as for a GGUF on disk, from what its header says for
certain; and where the author put files named `template`, `system` and `params` beside the GGUF, as
Hugging Face documents for `ollama run hf.co/...` (huggingface.co/docs/hub/ollama), those count.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import InvalidGgufError, NotFoundError
from tqconvert.gguf.header import Header, parse_header, read_header
from tqconvert.gguf.join import Joined, Shard, join
from tqconvert.modelfile.make import from_gguf
from tqconvert.modelfile.names import PARAMETERS, accepts
from tqconvert.modelfile.template import block_problem, is_jinja
from tqconvert.progress import Progress
from tqconvert.pull.head import fetch_head
from tqconvert.pull.hub.files import choose, projector_for, selector_of
from tqconvert.pull.hub.name import HOST, HubName
from tqconvert.pull.joining import Shards, ShardSource
from tqconvert.pull.plan import Origin
from tqconvert.reference import ModelName
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.hub import Hub
from tqconvert.registry.hublisting import HubFile
from tqconvert.store.manifest import LAYER_PREFIX, MODEL_TYPE, Layer, Manifest
from tqconvert.store.recipe import Parameter, Recipe, config_blob, recipe_blobs, recipe_of
from tqconvert.store.source import refuse_unfit

MAX_TEXT = 1 << 20
"""A template, system text or license that is longer is none."""

_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")

HeaderHere = Callable[[Digest], Header | None]
"""The header of the model with this digest if it is on this disk, tagged or not."""


@dataclass(frozen=True, slots=True)
class Content:
    """What the model consists of. `main` stands for its shards where it has several."""

    manifest: Manifest
    header: Header
    inline: Mapping[Digest, bytes]
    heads: Mapping[Digest, bytes]
    shards: tuple[Digest, ...]
    cached: Mapping[Digest, Path]
    """Files that huggingface_hub's cache has, not verified. None of a model in shards."""


class HubModel:
    """The model that a name means at this moment. Making one asks for the listing alone."""

    def __init__(self, http: Http, endpoint: str, name: HubName, progress: Progress) -> None:
        self._http, self._progress = http, progress
        self._hub = Hub(http, endpoint)
        self._listing = self._hub.list_files(name.repository, name.revision)
        files = self._listing.files
        self._chosen, everything = choose(files, name.selector, str(name))
        self._projector = projector_for(files, self._chosen)
        if http.offline:
            progress.note(
                f"offline: {name.repository} is what huggingface_hub's cache has of it, "
                f"{len(files)} files of commit {self._listing.commit[:12]}"
            )
        self._files = {f.digest: f for f in files if f.digest is not None}
        self.name = model_name(name.repository, selector_of(self._chosen, everything))

    @property
    def origin(self) -> Origin:
        """Repository, commit and files, after `read`."""
        files = (*self._chosen.files, *((self._projector,) if self._projector else ()))
        computed = {file.path: digest for digest, file in self._files.items()}
        return Origin(
            f"{HOST}/{self._listing.repository}",
            self._listing.commit,
            tuple((f.path, (f.digest or computed[f.path]).hex, f.size) for f in files),
        )

    def source_of(self, digest: Digest) -> Endpoint:
        """Where the file with this sha256 is."""
        file = self._files.get(digest)
        if file is None:
            raise NotFoundError(f"{digest}: not in {self.name} any more", hint="run it again")
        return self._hub.source(self._listing, file)

    def read(self, header_here: HeaderHere) -> Content:
        """What the model consists of; its header is fetched unless it is here.

        Raises AuthError for a gated repository, RefusedError for a GGUF that is no model,
        InvalidGgufError, NetworkError.
        """
        heads: dict[Digest, bytes] = {}
        shards = tuple(self._digest(file, heads) for file in self._chosen.files)
        main = shards[0] if len(shards) == 1 else _identity(shards)
        cached = self._cached(shards)
        header = header_here(main)
        if header is None and main in cached:
            header = read_header(cached[main])
        elif header is None and len(shards) > 1:
            joined = self._join(shards, heads)
            header = parse_header(joined.header, joined.size, subject=self._chosen.stem)
        elif header is None:
            heads[main], header = self._head(self._chosen.files[0], heads.get(main))
        refuse_unfit(header, f"{self.name} ({PurePosixPath(self._chosen.path).name})")
        layers = [Layer.make(MODEL_TYPE, main, header.size)]
        if self._projector:
            digest = self._digest(self._projector, heads)
            layers.append(Layer.make(LAYER_PREFIX + "projector", digest, self._projector.size))
        recipe = self._recipe(header)
        extra = recipe_blobs(recipe)
        all_ = (*layers, *(blob.layer for blob in extra))
        config = config_blob(header, recipe, tuple(layer.digest for layer in all_))
        inline = {blob.layer.digest: blob.data for blob in (*extra, config)}
        manifest = Manifest.make(config.layer, all_)
        joined_of = shards if len(shards) > 1 else ()
        return Content(manifest, header, inline, heads, joined_of, cached)

    def shards(self, content: Content) -> Shards:
        """The model's shards, and the whole that they make. Raises as `read` does."""
        heads = dict(content.heads)
        joined = self._join(content.shards, heads)
        sources = [
            ShardSource(
                PurePosixPath(file.path).name,
                digest,
                file.size,
                heads[digest],
                self.source_of(digest),
            )
            for file, digest in zip(self._chosen.files, content.shards, strict=True)
        ]
        return Shards(joined, tuple(sources))

    def _join(self, shards: tuple[Digest, ...], heads: dict[Digest, bytes]) -> Joined:
        """The whole that the shards make; their first bytes go into `heads`.

        Raises InvalidGgufError for shards that are not one model.
        """
        found = []
        for file, digest in zip(self._chosen.files, shards, strict=True):
            head, header = self._head(file, heads.get(digest))
            heads[digest] = head
            found.append(Shard(PurePosixPath(file.path).name, head, header))
        return join(found)

    def _cached(self, shards: tuple[Digest, ...]) -> Mapping[Digest, Path]:
        """Files of the model that need not be fetched, because the client has them in its cache."""
        wanted = self._chosen.files if len(shards) == 1 else ()
        files = (*wanted, *((self._projector,) if self._projector else ()))
        pairs = ((f.digest, self._hub.cached(self._listing, f)) for f in files)
        return {digest: path for digest, path in pairs if digest and path}

    def _digest(self, file: HubFile, heads: dict[Digest, bytes]) -> Digest:
        """sha256 of the file; one outside LFS is fetched for it, and compared with its Git blob id."""
        if file.digest is not None:
            return file.digest
        data = self._hub.read_file(self._listing, file)
        digest = digest_bytes(data)
        self._files[digest], heads[digest] = file, data
        return digest

    def _head(self, file: HubFile, known: bytes | None) -> tuple[bytes, Header]:
        """The file's first bytes, its header and perhaps more, and the header."""
        subject = PurePosixPath(file.path).name
        if known is not None:
            return known, parse_header(known, file.size, subject=subject)
        if file is self._chosen.files[0]:  # the others are no more and no less open
            self._hub.check_access(self._listing, file)
        source = self._hub.source(self._listing, file)
        found = self._hub.asked(
            lambda: fetch_head(self._http, source, file.size, subject), self._listing
        )
        if found is None:
            raise InvalidGgufError(f"{subject}: a header that does not end (expected a model)")
        return found

    def _recipe(self, header: Header) -> Recipe:
        """Template and the like: by the header for certain, and by the author's own files."""
        recipe = recipe_of(from_gguf(header, from_="model", num_ctx=None))
        texts = {"template": self._template(), "system": self._text("system")}
        license_ = next((t for name in _LICENSES if (t := self._text(name))), None)
        return replace(
            recipe,
            template=texts["template"] or recipe.template,
            system=texts["system"] or recipe.system,
            licenses=(license_,) if license_ else recipe.licenses,
            parameters={**recipe.parameters, **self._params()},
        )

    def _text(self, name: str) -> str | None:
        """The text of a small file at the top of the repository."""
        for file in self._listing.files:
            if file.path == name and 0 < file.size <= MAX_TEXT:
                try:
                    return self._hub.read_file(self._listing, file).decode("utf-8")
                except UnicodeDecodeError:
                    self._progress.note(f"{name} of the repository is no text; left out")
        return None

    def _template(self) -> str | None:
        """The author's template, if Ollama can read it."""
        text = self._text("template")
        if text is None:
            return None
        problem = "is Jinja, not Go's" if is_jinja(text) else block_problem(text)
        if problem:
            self._progress.note(f"template of the repository left out: {problem}")
        return None if problem else text

    def _params(self) -> Mapping[str, Parameter]:
        """Parameters of the file `params`; what Ollama does not know is left out, and said."""
        text = self._text("params")
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self._progress.note("params of the repository is no JSON object; left out")
            return {}
        found: dict[str, Parameter] = {}
        for key, given in value.items():
            items = given if isinstance(given, list) else [given]
            kind = PARAMETERS.get(key)
            texts = [str(x).lower() if isinstance(x, bool) else str(x) for x in items]
            if kind is None or not all(accepts(kind, t) for t in texts):
                self._progress.note(f"params of the repository: {key} left out, unknown to Ollama")
            else:
                found[key] = tuple(texts) if kind == "strings" else given
        return found


def model_name(repository: str, selector: str) -> ModelName:
    """Name under which Ollama could hold the model: characters that it does not take become `-`."""
    org, _, repo = repository.partition("/")
    tag = selector.removesuffix(".gguf")
    return ModelName.parse(
        f"{HOST}/{_part(org, '_-', 80)}/{_part(repo, '._-', 80)}:{_part(tag, '._-', 77)}"
    )


def _part(text: str, marks: str, length: int) -> str:
    return re.sub(rf"[^A-Za-z0-9{marks}]+", "-", text).lstrip("-.")[:length]


def _identity(shards: tuple[Digest, ...]) -> Digest:
    """What stands for the digest of the whole, which nobody knows before the last byte."""
    return digest_bytes("\n".join(d.hex for d in shards).encode())
