"""Planted mistakes: does the check of the turbo kernels find them?

A mutant is our sources with one place changed: a barrier taken out, a limit off by one, a codebook swapped
or too narrow. `judge` compiles it and runs a panel of cases; what no case sees is a hole in the matrix, or
a place that the kernel does not need.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import BuildFailedError, CheckFailedError, KernelSourceError
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.cases import AttentionCase, Case, RowsCase, TransformCase
from tqconvert.metal.turbo.check import OWN, check_turbo, own_sources

_ATTENTION, _MAIN, _TABLES = f"{OWN}-attention.h", f"{OWN}.metal", f"{OWN}-tables.h"
_VEC, _TILED = f"{OWN}-vec.h", f"{OWN}-tiled.h"
_BINARY64 = f"{OWN}-binary64.h"
_BARRIER = re.compile(r"\b(?:threadgroup|simdgroup)_barrier\(mem_flags::mem_threadgroup\);")
_COMMENT = re.compile(r"//[^\n]*")
_NO_CODE = re.compile(
    r"\s*(#|template|static_assert|typedef|TURBO_|for \(short p = 0; p < 4)|.*\\$"
)
"""Also left alone: how many parts a float4 has, and macros."""
_OPERATORS = (
    (re.compile(r"(?<![<\w ]) ?<(?= [\w(])(?! *<)"), " <="),
    (re.compile(r" > (?=[\w(])"), " >= "),
    (re.compile(r" && "), " || "),
    (re.compile(r" \+ (?=\w)"), " - "),
    (re.compile(r" - (?=\w)"), " + "),
    (re.compile(r" \? "), " ? 0*"),
    (re.compile(r"(?<![\w.#\[])(\d+)(?![\w.\]])"), "+1"),
)
"""What the random mutants do: comparisons, signs, literals."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed place."""

    name: str
    file: str
    start: int
    """Offset in the file."""
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The file with the mistake."""
        assert text.startswith(self.old, self.start)
        return text[: self.start] + self.new + text[self.start + len(self.old) :]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mutant was found, and by what."""

    mutant: Mutant
    by: str
    """finding (its kind), numbers, failure, compiler, table; empty: not found."""


_PLANTED = (
    ("key position off by one", _VEC, "(8*outer + inner)*PK + yk,", "(8*outer + inner)*PK + yk + 1,"),
    ("last position left out", _VEC, "mine < args.ne11;", "mine < args.ne11 - 1;"),
    ("one position too many", _VEC, "mine < args.ne11;", "mine <= args.ne11;"),
    ("keys read behind the end", _VEC, "PK + yk, last)", "PK + yk, last + 1)"),
    ("rows of another query", _VEC, "q += iq1*args.nb01", "q += (iq1 + 1)*args.nb01"),
    ("head of another group", _VEC, "iq2/(args.ne02/args.ne_12_2)", "iq2%args.ne_12_2"),
    ("mask of the next row", _TILED, "(mask + (iq1 + j)*args.nb31", "(mask + (iq1 + j + 1)*args.nb31"),
    ("tiled: last position left out", _TILED, "first + lane < args.ne11 &&", "first + lane < args.ne11 - 1 &&"),
    ("values weighed by their neighbour", _VEC, "c%PK*NK + c/PK", "(c%PK*NK + c/PK + 1)%32"),
    ("codebook of K for V", _VEC, "V::load(row, xv%TURBO_LANES, levels + 16", "V::load(row, xv%TURBO_LANES, levels"),
    ("nibbles swapped", _ATTENTION, "levels[u & 15];", "levels[u >> 4 & 15];"),
    ("third bit of the other half", _ATTENTION, "n%4 + 4*i)", "n%4 + 4*(1 - i))"),
    ("sinks in every workgroup", _VEC, "turbo_has_sinks && iwg == 0 &&", "turbo_has_sinks &&"),
    ("old sums not shrunk", _VEC, "sum[n] *= shrink;", "sum[n] *= 1;"),
    ("one mask for all taken for many", _VEC, "iq3%args.ne33*args.nb33", "iq3*args.nb33"),
    ("tiled: one mask for all taken for many", _TILED, "iq3%args.ne33*args.nb33", "iq3*args.nb33"),
    ("tiled: its tiles taken for many", _TILED, "((iq3%args.ne33*args.ne32", "((iq3*args.ne32"),
    ("values by the strides of keys", _VEC, "ikv3*args.nb23", "ikv3*args.nb13"),
    ("sums behind the parts of one sequence", _VEC, "args.ne2*args.ne3*DV*nwg", "args.ne2*DV*nwg"),
    ("tiled: room for scores of K only", _TILED, "TURBO_MAX(BK, BV)*Q*C", "BK*Q*C"),
    ("lists of rows not shared", _MAIN, "i11 = i02%args.ne11", "i11 = i02"),
    ("lists of rows without gaps", _MAIN, "(src1 + i01*args.nb10", "(src1 + i01*sizeof(index_t)"),
    ("copy into one plane", _MAIN, "n/args.ne0%args.ne1,", "n/args.ne0,"),
    ("values taken for neighbours", _MAIN, "turbo_read(from, args.nb00, lane)", "turbo_read(from, 4, lane)"),
    ("heads in order of memory", _MAIN, "i23%args.ne2*args.nb2 + i23/args.ne2*args.nb3", "i23*args.nb2"),
    ("a tile less in a row of tiles", _TILED, "(args.ne11 + OP_FLASH_ATTN_EXT_NCPSG - 1)", "(args.ne11 + OP_FLASH_ATTN_EXT_NCPSG - 2)"),
    ("undefined values behind the mask", _TILED, "p > 0 ? p*factor_v[b] : 0", "p*factor_v[b]"),
    ("vec: undefined values behind the mask", _VEC, "weight > 0 ? weight*V::factor(row, xv%TURBO_LANES) : 0", "weight*V::factor(row, xv%TURBO_LANES)"),
    ("output rotated as input", _ATTENTION, "o = turbo_rotate_inverse(o, lane);", "o = turbo_rotate(o, lane);"),
    ("largest of one simdgroup", _VEC, "largest = max(largest, stats[2*g + 1]);", "largest = stats[2*g + 1];"),
    ("scale search ends early", _MAIN, "c < TURBO_SCALES; c++) {\n        int d", "c < TURBO_SCALES - 1; c++) {\n        int d"),
    ("last of equal scales wins", _MAIN, "s > best_score ? c", "s >= best_score ? c"),
    ("threshold counts as above", _MAIN, "v > turbo_thresholds", "v >= turbo_thresholds"),
    ("stages of the transform in another order", _MAIN, "half_width = 1; half_width < 32; half_width *= 2", "half_width = 16; half_width > 0; half_width /= 2"),
    ("gain of zero for what is not a number", _MAIN, "finite ? 0 : 0x7e00", "0"),
    ("root of 54 bits", _BINARY64, "i < 55; i++", "i < 54; i++"),
    ("a sign flipped", _TABLES, "0x03278d5e", "0x03278d5f"),
    ("codebooks swapped", _TABLES, "{ -100.0f, -30.0f, 30.0f, 100.0f,", "{ -114.0f, -71.0f, -40.0f, -13.0f,"),
    ("codebook too narrow", _TABLES, "-104.0f, -79.0f, -62.0f, -48.0f, -36.0f, -25.0f, -15.0f, -5.0f, 5.0f, 15.0f, 25.0f, 36.0f, 48.0f, 62.0f, 79.0f, 104.0f", "-75.0f, -57.0f, -45.0f, -35.0f, -26.0f, -18.0f, -11.0f, -4.0f, 4.0f, 11.0f, 18.0f, 26.0f, 35.0f, 45.0f, 57.0f, 75.0f"),
    ("a threshold off by one", _TABLES, "{ 320, 640, 976,", "{ 320, 641, 976,"),
)  # fmt: skip


def planted(metal: Path) -> list[Mutant]:
    """Mistakes that one makes. Raises KernelSourceError where a place is no longer there."""
    found = []
    for name, file, old, new in _PLANTED:
        at = (metal / file).read_text("utf-8").find(old)
        if at < 0:
            raise KernelSourceError(f"{file}: {old!r} is not there any more ({name})")
        found.append(Mutant(name, file, at, old, new))
    return found


def barriers(metal: Path) -> list[Mutant]:
    """Each barrier taken out in turn."""
    return [
        Mutant(f"{file}:{_line(text, m.start())} without its barrier", file, m.start(), m[0], ";")
        for file, text in _texts(metal)
        for m in _BARRIER.finditer(text)
    ]


def scattered(metal: Path, n: int, seed: int = 1) -> list[Mutant]:
    """`n` random changes of one operator or number each, somewhere in the code."""
    sites = [m for file, text in _texts(metal) for m in _sites(file, text)]
    return random.Random(seed).sample(sites, min(n, len(sites)))  # noqa: S311 - no secret


def _sites(file: str, text: str) -> Iterator[Mutant]:
    start = max(0, text.find("static inline"))
    code = _COMMENT.sub(lambda m: " " * len(m[0]), text)
    for line in re.finditer(r"[^\n]+", code):
        if line.start() < start or _NO_CODE.match(line[0]):
            continue
        for pattern, new in _OPERATORS:
            for m in pattern.finditer(line[0]):
                old = m[0]
                changed = str(int(old) + 1) if new == "+1" else new
                at = line.start() + m.start()
                name = f"{file}:{_line(text, at)} {old.strip()} -> {changed.strip()}"
                yield Mutant(name, file, at, old, changed)


def panel(mutant: Mutant) -> list[Case]:
    """The cases that have a chance to see a mutant: all quick ones take longer."""
    vec: list[Case] = [
        AttentionCase("vec", "turbo4", "turbo3", 128, 333, 2, (8, 2), simdgroups=2, sinks=True),
        AttentionCase("vec", "turbo3", "turbo4", 256, 301, mask="nan", simdgroups=4, workgroups=1),
        AttentionCase("vec", "turbo4", "turbo3", 128, 31, 2, (6, 2), "none", simdgroups=2),
        AttentionCase("vec", "turbo4", "turbo3", 128, 95, mask="causal", softcap=9, max_bias=8),
        AttentionCase("vec", "turbo4", "turbo3", 128, 50, 2, mask="empty", workgroups=1),
        AttentionCase(
            "vec", "turbo4", "turbo3", 128, 70, 2, (6, 3), n_seq=3, gaps=True, one_mask=True
        ),
        AttentionCase("vec", "turbo4", "turbo3", 512, 97, 2, n_seq=2, dim_v=128, simdgroups=2),
    ]
    tiled: list[Case] = [
        AttentionCase("tiled", "turbo3", "turbo4", 256, 161, 11, (4, 2), "nan", sinks=True),
        AttentionCase("tiled", "turbo3", "turbo4", 256, 333, 20, (6, 2), softcap=9, max_bias=8),
        AttentionCase("tiled", "turbo3", "turbo4", 256, 64, 8, (8, 2), "none"),
        AttentionCase("tiled", "turbo3", "turbo4", 256, 100, 9, (4, 4), "empty"),
        AttentionCase(
            "tiled", "turbo3", "turbo4", 256, 321, 17, (3, 1), mask_by_head=True, n_seq=2
        ),
        AttentionCase(
            "tiled", "turbo3", "turbo4", 256, 97, 11, (6, 3), n_seq=3, gaps=True, one_mask=True
        ),
        AttentionCase("tiled", "turbo3", "turbo4", 128, 130, 20, dim_v=256),
    ]
    rows: list[Case] = [
        *(
            RowsCase("set_rows_i64", f"turbo{b}", 512, 301, (32, 4), hostile=True)
            for b in (2, 3, 4)
        ),
        *(RowsCase("to_f32", f"turbo{b}", 384, 5, outer=(3, 2)) for b in (2, 3, 4)),
        RowsCase("set_rows_i32", "turbo4", 384, 5, (3, 11), outer=(3, 2)),
        RowsCase("from_f32", "turbo2", 256, 3, outer=(2, 3)),
        RowsCase("to_f16", "turbo2", 384, 3, (64, 1), outer=(2, 2)),
        RowsCase("get_rows", "turbo3", 640, 9, (64, 1), outer=(2, 2)),
        RowsCase("kv_f16", "turbo3", 256, 7, (64, 1), outer=(3, 2)),
        RowsCase("set_rows_i64", "turbo4", 384, 5, (64, 1), outer=(4, 2), view=True),
        RowsCase("from_f32", "turbo2", 384, 5, (64, 1), outer=(4, 2), view=True),
        RowsCase("to_f32", "turbo3", 384, 5, (64, 1), outer=(4, 2), view=True),
        RowsCase("get_rows", "turbo3", 384, 5, (64, 1), outer=(4, 2), view=True),
        RowsCase("kv_f16", "turbo3", 384, 5, (64, 1), outer=(4, 2), view=True),
        TransformCase(inverse=False, n_blocks=37),
        TransformCase(inverse=True, n_blocks=37),
    ]
    return {_VEC: vec, _TILED: tiled, _ATTENTION: [*vec, *tiled]}.get(mutant.file, rows)


def judge(simulator: Simulator, metal: Path, upstream: Path, mutant: Mutant, work: Path) -> Verdict:
    """Compile the mutant in the empty folder `work` and run its panel, up to the first case that sees it."""
    for path in metal.iterdir():
        if path.suffix in (".h", ".metal"):
            text = path.read_text("utf-8")
            changed = mutant.apply(text) if path.name == mutant.file else text
            (work / path.name).write_text(changed, "utf-8")
    if mutant.file == _TABLES and (by := _table_fault(work / _TABLES)):
        return Verdict(mutant, by)
    sources = own_sources(work, upstream)
    try:
        for result in check_turbo(simulator, sources, panel(mutant)):
            if result.findings:
                return Verdict(mutant, result.findings[0].kind)
            if not result.ok:
                return Verdict(mutant, "failure" if result.failure else "numbers")
    except (BuildFailedError, KernelSourceError):
        return Verdict(mutant, "compiler")
    return Verdict(mutant, "")


def _table_fault(path: Path) -> str:
    """Whether a codebook in the header is unsound, whatever the kernels make of it."""
    from tqconvert.turbo.codebook import CODEBOOKS, verify_codebook

    rows = re.findall(r"\{ ((?:-?\d+\.0f(?:, )?){16}) \}", path.read_text("utf-8"))
    for row, (name, book) in zip(rows, CODEBOOKS.items(), strict=True):
        levels = [float(x.rstrip("f")) for x in row.split(", ")][: 1 << book.bits]
        try:
            verify_codebook(levels, book.unit, name=name)
        except CheckFailedError:
            return "table"
    return ""


def _texts(metal: Path) -> list[tuple[str, str]]:
    return [
        (f, (metal / f).read_text("utf-8")) for f in (_MAIN, _BINARY64, _ATTENTION, _VEC, _TILED)
    ]


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
