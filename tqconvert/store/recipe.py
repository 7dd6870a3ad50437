"""The small blobs of a model, byte for byte as stock `ollama create` writes them.

Equal bytes have equal digests: a template or license that is in the store already is shared, and what
`tqconvert install` makes can be compared with what Ollama makes. Checked against Ollama v0.19.0
(server/create.go createModel, types/model/config.go, api/types.go FormatParams, format/format.go).
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import RefusedError
from tqconvert.fs import expand_user
from tqconvert.gguf.header import Header
from tqconvert.gguf.types import FILE_TYPES
from tqconvert.modelfile.names import DEPRECATED, PARAMETERS, accepts, integer
from tqconvert.modelfile.parse import Modelfile, ModelfileError, parse, read_modelfile
from tqconvert.store.manifest import CONFIG_TYPE, LAYER_PREFIX, Layer

Parameter = int | float | bool | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model has beside its weights. Empty: stock defaults, nothing invented."""

    template: str = ""
    system: str = ""
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) each."""
    renderer: str = ""
    parser: str = ""
    requires: str = ""


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """A blob in memory and the layer that names it."""

    layer: Layer
    data: bytes

    @classmethod
    def make(cls, media_type: str, data: bytes) -> "SmallBlob":
        """Blob of these bytes."""
        return cls(Layer.make(media_type, digest_bytes(data), len(data)), data)


def read_recipe(path: Path, source: Path) -> Recipe:
    """Recipe of the Modelfile at `path` for a model whose GGUF is `source`.

    A FROM that is a path must mean that file; a FROM that is a model's name says nothing about it.
    Raises NotFoundError, StorageError, ModelfileError, RefusedError.
    """
    modelfile = parse(read_modelfile(path))
    for command in modelfile.of("from"):
        weights = path.parent / expand_user(command.value)
        if _is_another(weights, source):
            raise RefusedError(
                f"{path}: FROM is {command.value}, another file than {source}",
                hint=f"tqconvert install {weights} --as NAME --modelfile {path}",
            )
    try:
        return recipe_of(modelfile)
    except ModelfileError as e:
        raise ModelfileError(
            f"{path}: {e.message}", reason=e.reason, hint=f"tqconvert modelfile --lint {path}"
        ) from None


def _is_another(weights: Path, source: Path) -> bool:
    """Whether there is such a file, and it is not `source`; no path at all (too long) is none."""
    try:
        return weights.exists() and not weights.samefile(source)
    except (OSError, ValueError):
        return False


def recipe_of(modelfile: Modelfile) -> Recipe:
    """What a Modelfile says beside FROM, as Ollama's client reads it.

    Raises RefusedError for what `install` cannot do (adapters, several FROM), ModelfileError for a
    parameter that Ollama refuses.
    """
    for kind in ("adapter", "draft"):
        if modelfile.of(kind):
            raise RefusedError(
                f"Modelfile: {kind.upper()} cannot be installed (one GGUF is)",
                hint="ollama create NAME -f MODELFILE",
            )
    if len(modelfile.of("from")) > 1:
        raise RefusedError(
            "Modelfile: several FROM lines cannot be installed (one GGUF is)",
            hint="ollama create NAME -f MODELFILE",
        )

    def last(kind: str) -> str:
        return next((c.value for c in reversed(modelfile.of(kind))), "")

    return Recipe(
        template=last("template"),
        system=last("system"),
        licenses=tuple(c.value for c in modelfile.of("license")),
        parameters=_parameters(modelfile),
        messages=tuple((c.key, c.value) for c in modelfile.of("message")),
        renderer=last("renderer"),
        parser=last("parser"),
        requires=last("requires"),
    )


def _parameters(modelfile: Modelfile) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for command in modelfile.of("parameter"):
        name = command.key
        if name in DEPRECATED:
            continue
        value = _parameter(name, command.value, command.line)
        before = found.get(name)
        if isinstance(value, tuple) and isinstance(before, tuple):
            value = before + value
        found[name] = value
    return found


def _parameter(name: str, text: str, line: int) -> Parameter:
    kind = PARAMETERS.get(name)
    if kind is None:
        raise ModelfileError(f"unknown PARAMETER {name}", reason="parameter", line=line)
    if not accepts(kind, text):
        raise ModelfileError(
            f"PARAMETER {name} {text} (expected {kind})", reason="parameter", line=line
        )
    match kind:
        case "int":
            return integer(text)
        case "float":
            plain = text.replace("_", "")
            value = float.fromhex(plain) if "x" in plain.lower() else float(plain)
            if not math.isfinite(value):
                raise ModelfileError(
                    f"PARAMETER {name} {text}: JSON has no such number", reason="parameter",
                    line=line,
                )  # fmt: skip
            return _float32(value)
        case "bool":
            return text in ("1", "t", "T", "TRUE", "true", "True")
        case "strings":
            return (text,)


def _float32(value: float) -> float:
    """The shortest decimal that names the same 32-bit float: how Go's JSON writes one."""
    single = struct.pack("f", value)
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == single:
            return short
    return float(f"{struct.unpack('f', single)[0]:.9g}")


def recipe_blobs(recipe: Recipe) -> tuple[SmallBlob, ...]:
    """Template, system, licenses, params and messages, in the order of `ollama create`."""
    blobs = []
    texts = [("template", recipe.template), ("system", recipe.system)]
    texts += [("license", text) for text in recipe.licenses]
    for kind, text in texts:
        if text:
            blobs.append(SmallBlob.make(LAYER_PREFIX + kind, text.encode()))
    if recipe.parameters:
        data = go_json(dict(sorted(recipe.parameters.items())))
        blobs.append(SmallBlob.make(LAYER_PREFIX + "params", data))
    if recipe.messages:
        messages = [{"role": role, "content": content} for role, content in recipe.messages]
        blobs.append(SmallBlob.make(LAYER_PREFIX + "messages", go_json(messages)))
    return tuple(blobs)


def config_blob(header: Header, recipe: Recipe, layers: tuple[Digest, ...]) -> SmallBlob:
    """The config of a model with this GGUF; `layers` are the digests of all layers, in order.

    It names linux and amd64 on every machine, as Ollama's does. `rootfs` is read by no version and
    written by Ollama up to 0.24.
    """
    family = header.architecture or "unknown"
    config: dict[str, object] = {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": human_number(sum(t.n_values for t in header.tensors)),
        "file_type": FILE_TYPES.get(header.integer("general.file_type") or -1, "unknown"),
    }
    for key in ("renderer", "parser", "requires"):
        if value := getattr(recipe, key):
            config[key] = value
    config |= {"architecture": "amd64", "os": "linux"}
    config["rootfs"] = {"type": "layers", "diff_ids": [str(d) for d in layers]}
    return SmallBlob.make(CONFIG_TYPE, go_json(config))


def human_number(n: int) -> str:
    """Parameters as Ollama writes them: 268.10M, 27.8B, 7B."""
    for scale, unit, decimals in ((10**9, "B", 1), (10**6, "M", 2)):
        if n >= scale:
            return f"{n / scale:.{0 if n % scale == 0 else decimals}f}{unit}"
    return f"{n / 1000:.0f}K" if n >= 1000 else str(n)


def go_json(value: object) -> bytes:
    """JSON as Go's json.Encoder writes it: no spaces, HTML's characters escaped, a line break."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    for c in "<>&\u2028\u2029":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text.encode() + b"\n"


def _plain(value: object) -> object:
    """Floats without a fraction as integers; containers likewise."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
