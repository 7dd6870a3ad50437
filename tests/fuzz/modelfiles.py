"""Modelfiles: parsed, linted, rendered again, made into a model's layers."""

import os
import random
import shutil
from pathlib import Path

from tests import builders as b
from tests.fuzz.engine import Case
from tests.fuzz.headers import scratch, typed
from tests.fuzz.mutate import EDGES, byte_level
from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.names import PARAMETERS
from tqconvert.modelfile.parse import COMMANDS, Modelfile, ModelfileError, parse
from tqconvert.modelfile.render import render
from tqconvert.store.recipe import read_recipe, recipe_blobs, recipe_of

FOLDER = Path(__file__).parents[2] / "Modelfiles"
TEXTS = (
    b'FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}\n"""\nPARAMETER stop "<end>"\n',
    b"# a\n#  b\n\n# c\nFROM llama3:8b\n# d\nSYSTEM You are.\n\n# e\n",
    b'FROM x\nMESSAGE user """a\nb"""\nMESSAGE assistant " x "\nLICENSE "MIT"\nREQUIRES 0.6.0\n',
    b"from x\r\nparameter num_ctx 4096\r\nPARAMETER temperature 0.7\r\nADAPTER ./a\r\nDRAFT d\r\n",
    b"FROM x\nRENDERER qwen3.5\nPARSER qwen3.5\nPARAMETER top_k 20\n",
)
NUMBERS = (
    b"3.4028235e38", b"3.4028234e38", b"3.4028236e38", b"1e999", b"-1e-999", b"0x1p127", b"0x1.fffffep127",
    b"1_000", b"nan", b"-inf", b"9" * 5000, b"0." + b"0" * 5000 + b"1", b"1e" + b"9" * 30, b"0x" + b"f" * 300 + b"p0",
    b"\xd9\xa3", b"+5", b"", b"1e-45", b"9223372036854775807", b"-9223372036854775808",
)  # fmt: skip
PATHS = (
    b"~", b"~/m.gguf", b"~nobody-here/m.gguf", b"./m.gguf", b"/m.gguf", b"m.gguf", b"a\x00b", b"x/" * 3000,
    b"n" * 300, b"./" + b"n" * 300 + b".gguf", b"file:///x", b"\\\\host\\x", b"C:\\x.gguf", b"./.", b"/dev/zero",
    b"hf.co/a/b:Q4", b"registry/../../x", b"@sha256:", b"a:b:c",
)  # fmt: skip
TOKENS = (
    b'"', b'"""', b'""', b"\n", b"\r", b"\r\n", b"\t", b" ", b"#", b"# x\n", b"\x00", b"\x0b", b"\x1b[2J", b"\x85",
    b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80",
    b"{{", b"}}", b"{{ end }}", b"{{ range .Messages }}", b"{{ .Tools }}", b"<|end|>", *PATHS, *NUMBERS,
    *(b"\n" + c.upper().encode() + b" " for c in COMMANDS),
    *(b"\nPARAMETER " + p.encode() + b" " for p in PARAMETERS),
    b"\nMESSAGE user ", b"\nMESSAGE system ", b"\nMESSAGE User ", b"PARAMETER model x\n", b"\nPARAMETER kv_cache_type f16",
    *(str(e).encode() for e in EDGES[::4]),
)  # fmt: skip


class Modelfiles:
    """The target `modelfiles`."""

    name = "modelfiles"

    def __init__(self) -> None:
        self._seeds = [*TEXTS, *(p.read_bytes() for p in sorted(FOLDER.glob("*.Modelfile")))]
        self.folder = scratch("modelfiles")
        self._model = b.tiny_gguf(self.folder / "m.gguf")
        (self.folder / "dir").mkdir()

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, rng: random.Random) -> Case:
        """A Modelfile with changes, or one put together from pieces."""
        if rng.random() < 0.3:
            data = bytearray(b"FROM x" if rng.random() < 0.8 else b"")
            for _ in range(rng.randrange(12)):
                data += rng.choice(TOKENS)
        else:
            data = bytearray(rng.choice(self._seeds))
        for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
            if rng.random() < 0.5:
                at = rng.randrange(len(data) + 1)
                data[at : at + rng.choice((0, 0, 1, 8))] = rng.choice(TOKENS)
            else:
                data = byte_level(data, rng, TOKENS)
        if rng.random() < 0.05:
            text = data.decode("utf-8", "replace")
            return Case(
                rng.choice((b"\xff\xfe", b"\xfe\xff"))
                + text.encode(rng.choice(("utf-16-le", "utf-16-be")))
            )
        return Case(bytes(data))

    def check(self, case: Case, number: int) -> str:
        """Parse, lint and render; what was read is written in a form that reads back equal."""
        found = lint(case.data, folder=self.folder if number % 2 else None)
        for finding in found:
            f"{finding.line} {finding.code} {finding.message} {finding.hint}".encode()
        try:
            modelfile = parse(case.data)
        except ModelfileError as e:
            assert any(f.code < "MF100" or f.code == "MF101" for f in found), f"lint is silent: {e}"
            return e.reason
        refused = [f for f in found if f.code < "MF005"]
        assert not refused, f"lint refuses what is parsed: {refused}"
        if any(c.kind == "parameter" and not c.key for c in modelfile.commands):
            typed(render, modelfile)  # Ollama reads `PARAMETER  x`, and refuses it as unknown
            return "a parameter without a name"
        text = render(modelfile)
        again = parse(text.encode())
        assert again == modelfile, (modelfile, again)
        assert render(again) == text
        typed(_install, modelfile)
        if number % 8 == 0:
            path = self.folder / f"{os.getpid()}.Modelfile"
            path.write_bytes(case.data)
            typed(read_recipe, path, self._model)
        return "parsed"


def _install(modelfile: Modelfile) -> None:
    recipe_blobs(recipe_of(modelfile))
