r"""Makes parse.json and values.json in this folder, by asking Ollama's own code.

    git clone -b v0.19.0 https://github.com/ollama/ollama && cd ollama
    mkdir tqoracle tqparser && cp .../oracle.go tqoracle/main.go
    git show v0.32.15:parser/parser.go | sed 's/req\.DraftFiles/draftFiles/g' > tqparser/parser.go
    # in tqparser/parser.go, CreateRequest: add `var draftFiles map[string]string` to its variables
    go build -o oracle ./tqoracle
    python make.py --oracle .../oracle

render.json: make_render.py.
"""

import argparse
import base64
import json
import random
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

WORDS = [
    "FROM x\n", "from ", "FROM\n", "FROM \n", "PARAMETER ", "PARAMETER num_ctx 4\n", "PARAMETER  a b\n",
    "PARAMETER model x\n", "PARAMETER system y\n", 'PARAMETER stop "<end>"\n', "PARAMETER a-b 1\n",
    "MESSAGE user ", "MESSAGE user hi: there\n", "MESSAGE User x\n", "MESSAGE  user x\n", "MESSAGE assistant\n",
    "SYSTEM ", 'SYSTEM """\na\n"""\n', 'SYSTEM "a"\n', 'SYSTEM "a" b\n', "TEMPLATE ", "LICENSE ",
    'LICENSE """\nx "y"\n"""', "DRAFT x\n", "REQUIRES 0.1\n", "RENDERER q\n", "PARSER", "ADAPTER ./a\n", "fRoM y",
    '"', '""', '"""', '""""', '"""""', '""""""', "\n", "\r\n", "\r", "\n\n", " ", "\t", "#", "# c\n", "abc", "x y",
    "'", "-", "_", "1", ".", "{{ .Prompt }}", "<|im_end|>", "\u00a0", "\u200b", "\ufeff", "\u3000", "é", "ж",
    "👍", "\x00", "\x0b", "\x0c", "\x85", "\u2028", "\u00ad", "\ufffd", "\U000e0041", "\ue000",
]  # fmt: skip
ILL_FORMED = [
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x91",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
]
STARTS = [
    "SYSTEM",
    "template",
    "LICENSE",
    "PARAMETER stop",
    "PARAMETER x",
    "MESSAGE user",
    "ADAPTER",
    "#",
]

PARAMS = {
    "num_ctx": ["4", "+4", "-4", "4.0", "1e3", "1_0", "0x10", "", " 4", "4 # c", "9223372036854775807",
                "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "٣", "true"],
    "temperature": ["1", "0.5", ".5", "5.", ".", "1e5", "1E-5", "1e", "+1", "-1", "--1", "1_0", "1__0", "_1",
                    "1_", "1_.5", "1._5", "1e1_0", "0x1p-2", "0x.8p1", "0x1", "0x_1p1", "0x1_0p1", "0xp1",
                    "inf", "-Inf", "+infinity", "INFINITY", "nan", "NaN", "+nan", "1e38", "3.4028235e38",
                    "3.4028236e38", "3.40282356e38", "3.4028235677973366e38", "1e39", "1e400", "1e-400",
                    "0x1p127", "0x1p128", "0x1p5000", "٣", "1,5", "", "1 2", "infin"],
    "use_mmap": ["1", "0", "t", "T", "true", "True", "TRUE", "tRUE", "f", "F", "false", "False", "FALSE", "yes",
                 "on", "", "2"],
    "stop": ["x", "", "a b"],
    "main_gpu": ["0", "x"],
    **{name: ["1"] for name in (
        "num_batch", "num_gpu", "num_thread", "draft_num_predict", "num_keep", "seed", "num_predict", "top_k",
        "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
        "frequency_penalty", "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock",
        "mirostat", "mirostat_tau", "mirostat_eta", "num_gqa", "numa", "tfs_z", "kv_cache_type", "model",
        "system", "Num_ctx", "")},
}  # fmt: skip
VERSIONS = ["0.1", "1", "v1", "vv1", "0.14.0", "v0.14.0", "1.2.3.4", "01.2", "1.02", "1.2.3-rc1", "1.2-rc1", "1.2.3-",
            "1.2.3-01", "1.2.3-0a", "1.2.3+b.01", "1.2.3-a.b+c", "", "v", "latest", "1.2.3 ", "٣.1", "1.x"]  # fmt: skip
TEMPLATES = [
    "{{ .Prompt }}", "{{.Prompt}}", "{{- .Prompt -}}", "{{-.Prompt}}", "{{- 3 -}}", "{{ .Prompt", ".Prompt }}",
    "{{ }}", "{{}}", "{{ if .System }}x{{ end }}", "{{ if .System }}x", "{{ end }}", "{{ else }}",
    "{{ if .System }}a{{ else if .Prompt }}b{{ else }}c{{ end }}", "{{ range .Messages }}{{ .Content }}{{ end }}",
    "{{ range $i, $_ := .Messages }}{{ $i }}{{ end }}", "{{ with .System }}{{ . }}{{ end }}{{ end }}",
    "{{/* a comment with }} inside */}}x", "{{- /* c */ -}}x", '{{ "}}" }}', "{{ `}}` }}", "{{ '}' }}",
    '{{ "unclosed }}', '{{ printf "%s" .System }}', "{{ json .Tools }}", "{{ nosuch .Tools }}",
    "{{ $x := 1 }}{{ if eq $x 1 }}y{{ end }}", "{{ $y }}", '{{ define "a" }}b{{ end }}{{ template "a" }}',
    '{{ block "a" . }}b{{ end }}', "{{ if }}x{{ end }}", "{{ range .Messages }}{{ break }}{{ end }}",
    "{{ .Prompt }} }} {", "{ {{ .Prompt }} }", "{% if messages %}x{% endif %}{{ messages[0] }}", "text only", "",
    "{{ if and .A (not .B) }}x{{ end }}{{ if or .A .B }}y{{ end }}", "{{\n.Prompt\n}}", "{{ if .A }}{{ else }}{{ else }}{{ end }}",
]  # fmt: skip


class Oracle:
    """The Go program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers, in order."""
        text = "\n".join(json.dumps(q) for q in requests)
        done = subprocess.run([self.path], input=text, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


def modelfiles(n: int, seed: int) -> list[bytes]:
    """Random Modelfiles: pieces in any order, cut, with byte order marks and ill-formed bytes."""
    r, cases = random.Random(seed), []
    for _ in range(n):
        if r.random() < 0.6:
            text = "".join(
                r.choice(STARTS) + r.choice(["  ", "\t", " ", " "]) + r.choice(["", "", '"', '"""'])
                + "".join(r.choice(WORDS[29:]) for _ in range(r.randint(0, 4)))
                + r.choice(["", "", '"', '"""', '""']) + r.choice(["\n", "\r\n", " \n"])
                for _ in range(r.randint(1, 4))
            )  # fmt: skip
        else:
            text = "".join(r.choice(WORDS) for _ in range(r.randint(1, 9)))
        text = r.choice(["FROM a\n", "FROM a\n", ""]) + text + r.choice(["\nFROM z", "", ""])
        data = text.encode()
        kind = r.randint(0, 19)
        if kind == 0:
            data = b"\xef\xbb\xbf" + data
        elif kind in (1, 2):
            data = (b"\xff\xfe", b"\xfe\xff")[kind - 1] + text.encode(
                ("utf-16-le", "utf-16-be")[kind - 1]
            )
            data = data[: len(data) - r.randint(0, 1)]
        elif kind == 3:
            data = data[: r.randint(0, len(data))]
        elif kind in (4, 5):
            at = r.randint(0, len(data))
            data = data[:at] + r.choice(ILL_FORMED) + data[at:]
        cases.append(data)
    return cases


def parse_golden(oracle: Oracle, n: int) -> dict[str, Any]:
    """Modelfiles with what both parsers say; null: refused."""
    cases = [w.encode() for w in WORDS] + [f"FROM a\n{w}".encode() for w in WORDS]
    cases = list(dict.fromkeys(cases + modelfiles(n, 19)))
    both = [
        oracle.ask([{"op": op, "data": base64.b64encode(c).decode()} for c in cases])
        for op in ("parse", "parse32")
    ]
    rows = [
        {
            "data": base64.b64encode(c).decode(),
            "v0.19.0": old.get("commands"),
            "v0.32.15": new.get("commands"),
        }
        for c, old, new in zip(cases, *both, strict=True)
    ]
    return {"made_by": "parser.ParseFile of ollama v0.19.0 and v0.32.15", "cases": rows}


def values_golden(oracle: Oracle) -> dict[str, Any]:
    """Verdicts on parameters, versions and templates: true where Ollama takes them."""

    def verdicts(requests: list[dict[str, Any]]) -> list[bool]:
        return ["error" not in a for a in oracle.ask(requests)]

    pairs = [(name, value) for name, values in PARAMS.items() for value in values]
    params = verdicts([{"op": "param", "name": n, "value": v} for n, v in pairs])
    versions = verdicts([{"op": "semver", "value": v} for v in VERSIONS])
    templates = verdicts([{"op": "template", "value": t} for t in TEMPLATES])
    return {
        "made_by": "api.FormatParams, semver.IsValid and template.Parse in ollama v0.19.0",
        "parameters": [[n, v, ok] for (n, v), ok in zip(pairs, params, strict=True)],
        "versions": list(map(list, zip(VERSIONS, versions, strict=True))),
        "templates": list(map(list, zip(TEMPLATES, templates, strict=True))),
    }


def write(name: str, value: dict[str, Any]) -> None:
    """Write one file, a case a line."""
    text = json.dumps(value, ensure_ascii=True)
    text = text.replace('}, {"data"', '},\n{"data"').replace("], [", "],\n[")
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Make the two files."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--oracle", type=Path, required=True)
    p.add_argument("--cases", type=int, default=700)
    args = p.parse_args()
    oracle = Oracle(args.oracle)
    write("parse.json", parse_golden(oracle, args.cases))
    write("values.json", values_golden(oracle))


if __name__ == "__main__":
    main()
