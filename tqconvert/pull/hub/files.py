"""Which files of a repository make the model that is meant.

File names are the only contract there is; how they are read follows llama.cpp (common/download.cpp:
gguf_filename_is_model, find_best_sibling) and what Hugging Face does for `ollama run hf.co/...`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tqconvert.errors import InvalidGgufError, NotFoundError, UsageError
from tqconvert.registry.hublisting import HubFile
from tqconvert.units import format_bytes

USUAL = (
    "Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0",
    "MXFP4", "F16", "BF16",
)  # fmt: skip
"""What a name without a quantization means: the first of these that the repository has."""

MAX_SHOWN = 24
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?"
    r"(?:(?:IQ|Q|TQ)\d(?:_(?:K|XXS|XS|S|M|L|XL|XXL|NL|\d))*|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_BITS = re.compile(r"\d+")
_BESIDE = re.compile(r"mtp-|eagle3-|dflash-|dspark-")
"""Beginnings of the names of draft models, which llama.cpp loads beside another one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of a repository: one file, or all shards in order. `label` is its quantization or ""."""

    files: tuple[HubFile, ...]
    label: str
    missing: tuple[str, ...] = ()
    """Names of shards that the repository lacks."""

    @property
    def path(self) -> str:
        """The file by which it is named: the first."""
        return self.files[0].path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)

    @property
    def stem(self) -> str:
        """Name of the file without number of shard and suffix."""
        return _stem(self.path)


def candidates_of(files: Iterable[HubFile]) -> tuple[Candidate, ...]:
    """All models, by path. Projectors, importance matrices and draft models are none."""
    single, sets = [], dict[tuple[str, int], dict[int, HubFile]]()
    for file in files:
        name = PurePosixPath(file.path).name
        if not is_gguf(file.path) or is_beside(name):
            continue
        if m := _SHARD.fullmatch(file.path):
            sets.setdefault((m["prefix"], int(m["count"])), {})[int(m["number"])] = file
        else:
            single.append(Candidate((file,), label_of(file.path)))
    found = single + [_joined(prefix, count, there) for (prefix, count), there in sets.items()]
    return tuple(sorted(found, key=lambda c: c.path))


def is_gguf(path: str) -> bool:
    """Whether the name is that of a GGUF."""
    return path.lower().endswith(".gguf")


def is_projector(name: str) -> bool:
    """Whether the file's name is that of a projector, the part of a model that sees."""
    return "mmproj" in name.lower()


def is_beside(name: str) -> bool:
    """Whether the GGUF of this name is no model by itself."""
    return (
        is_projector(name)
        or "imatrix" in name.lower()
        or name.startswith("ggml-vocab")
        or _BESIDE.match(name) is not None
    )


def label_of(path: str) -> str:
    """The quantization that a path names, in upper case; "" where it names none."""
    for part in (_stem(path), *reversed(PurePosixPath(path).parent.parts)):
        if found := _QUANT.findall(part):
            return str(found[-1]).upper()
    return ""


def choose(
    files: Sequence[HubFile], selector: str | None, subject: str
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The model that is meant, and all there are.

    Raises NotFoundError and UsageError with what there is instead, InvalidGgufError for missing shards.
    """
    found = candidates_of(files)
    if not found:
        raise NotFoundError(
            f"{subject}: no GGUF model in this repository",
            hint="GGUFs are mostly in repositories of their own, named ...-GGUF: "
            "https://huggingface.co/models?library=gguf",
        )
    if selector is None:
        chosen = _usual(found)
    else:
        _refuse_files_beside(files, selector, subject)
        chosen = _selected(found, selector)
    if not chosen:
        raise NotFoundError(f"{subject}: no such model in the repository", hint=_there(found))
    if len(chosen) > 1:
        raise UsageError(
            f"{subject}: {len(chosen)} models are meant (expected one)", hint=_there(chosen)
        )
    (one,) = chosen
    if one.missing:
        raise InvalidGgufError(
            f"{subject}: {len(one.missing)} of its {len(one.missing) + len(one.files)} shards are missing: "
            f"{', '.join(one.missing[:3])}",
            hint="the repository is incomplete, or still being filled",
        )
    return one, found


def projector_for(files: Iterable[HubFile], model: Candidate) -> HubFile | None:
    """The projector that belongs to the model; None where there is none.

    It lies in the model's folder or one above it, the nearest first; of several the one whose bits per
    weight are nearest, then by name.
    """
    folder = PurePosixPath(model.path).parent.parts
    bits = _bits(model.label)

    def distance(file: HubFile) -> tuple[int, int, int, str]:
        path = PurePosixPath(file.path)
        label = label_of(path.name)
        return -len(path.parent.parts), abs(_bits(label) - bits), "B" in label, file.path

    fitting = [
        f
        for f in files
        if is_gguf(f.path)
        and is_projector(PurePosixPath(f.path).name)
        and folder[: len(PurePosixPath(f.path).parent.parts)] == PurePosixPath(f.path).parent.parts
    ]
    return min(fitting, key=distance, default=None)


def selector_of(model: Candidate, all_: Sequence[Candidate]) -> str:
    """The shortest selector that means this model alone: its quantization, else its file's name."""
    if model.label and sum(c.label == model.label for c in all_) == 1:
        return model.label
    if sum(c.stem == model.stem for c in all_) == 1:
        return model.stem
    return model.path


def _joined(prefix: str, count: int, there: dict[int, HubFile]) -> Candidate:
    names = {n: f"{prefix}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)}
    missing = tuple(PurePosixPath(names[n]).name for n in names if n not in there)
    files = tuple(there[n] for n in sorted(there))
    return Candidate(files, label_of(files[0].path), missing)


def _usual(found: tuple[Candidate, ...]) -> list[Candidate]:
    """What a name without a selector means; several where nobody can tell."""
    if len(found) == 1:
        return list(found)
    for label in USUAL:
        if chosen := [c for c in found if c.label == label]:
            return chosen
    return list(found)


def _selected(found: tuple[Candidate, ...], selector: str) -> list[Candidate]:
    """What the selector means: the first reading that means anything."""
    wanted = selector.strip("/").lower()
    word = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])")

    def files_named(exact: str) -> list[Candidate]:
        return [
            c
            for c in found
            if any(exact in (f.path.lower(), PurePosixPath(f.path).name.lower()) for f in c.files)
        ]

    readings = (
        [c for c in found if any(f.path == selector for f in c.files)],
        files_named(wanted),
        [c for c in found if c.label.lower() == wanted],
        [c for c in found if c.stem.lower() == wanted],
        [c for c in found if c.path.lower().startswith(f"{wanted}/")],
        [c for c in found if word.search(c.path.lower())],
    )
    return next((r for r in readings if r), [])


def _refuse_files_beside(files: Sequence[HubFile], selector: str, subject: str) -> None:
    """Raise UsageError for a file that was named and is no model."""
    for file in files:
        name = PurePosixPath(file.path).name
        if selector not in (file.path, name):
            continue
        if not is_gguf(name):
            raise UsageError(f"{subject}: no GGUF (only GGUF models can be used)")
        if is_projector(name):
            raise UsageError(
                f"{subject}: a projector, which comes along with its model",
                hint="name the model instead",
            )
        if is_beside(name):
            raise UsageError(f"{subject}: no model that can be used by itself")


def _there(found: Sequence[Candidate]) -> str:
    rows = [
        f":{selector_of(c, found)} ({format_bytes(c.size)}"
        + (f", {len(c.files)} shards)" if len(c.files) > 1 else ")")
        for c in found[:MAX_SHOWN]
    ]
    more = f", and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return f"there are {', '.join(rows)}{more}"


def _stem(path: str) -> str:
    m = _SHARD.fullmatch(path)
    return PurePosixPath(m["prefix"]).name if m else PurePosixPath(path).stem


def _bits(label: str) -> int:
    """Bits per weight by the label; 16 where it names none."""
    m = _BITS.search(label)
    return int(m[0]) if m else 16
