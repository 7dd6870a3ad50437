"""Log llama-perplexity anew: `python tests/golden/perplexity/make.py --program P --model M --text T`.

Writes the `*.log` beside it: what the program printed, both streams as they came, without the lines about loading the
model. Made with llama.cpp 0c1e57098, Gemma 3 270M Q4_K_M and the text of `python -m tests.benchmarks.corpus`.
"""

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
COMMON = "-m model.gguf -c 512 -b 512 -fa on -lv 4 -t 2"
TEXT = "-f text.txt --chunks 3"
COMMANDS = {
    "base": f"{COMMON} {TEXT} -ctk f16 -ctv f16 --kl-divergence-base base",
    "q8_0-q4_0": f"{COMMON} -ctk q8_0 -ctv q4_0 --kl-divergence --kl-divergence-base base",
    "f16-f16": f"{COMMON} -ctk f16 -ctv f16 --kl-divergence --kl-divergence-base base",
    "no-base": f"{COMMON} --kl-divergence --kl-divergence-base text.txt",
    "torn-base": f"{COMMON} --kl-divergence --kl-divergence-base torn",
    "short-text": f"{COMMON} -f short.txt",
    "bad-type": f"{COMMON} {TEXT} -ctk turbo9 -ctv f16",
}
DROPPED = re.compile(
    r"llama_model_loader|print_info|print_backend|load_tensors|load:|system_info|llama_context:|graph_reserve|sched_reserve"
    r"|control-looking|^[\d.]+ I *$|common_perf|memory|^\.+$|allowed values|^--? ?|^ {20}|usage|set_abort"
)


def main() -> None:
    """Run all commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--program", "--model", "--text"):
        parser.add_argument(name, type=lambda p: Path(p).resolve(), required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("model.gguf").symlink_to(args.model)
        Path("text.txt").symlink_to(args.text)
        Path("short.txt").write_text(args.text.read_text()[:1000])
        for name, command in COMMANDS.items():
            if name == "torn-base":
                Path("torn").write_bytes(Path("base").read_bytes()[: 200 << 20])
            done = subprocess.run(
                [args.program, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", check=False,
            )  # fmt: skip
            lines = [x.rstrip() for x in done.stdout.splitlines() if not DROPPED.search(x)]
            head = f"$ llama-perplexity {command}\n"
            (HERE / f"{name}.log").write_text(
                head + "\n".join(lines) + f"\n$ exit {done.returncode}\n"
            )
            print(name, done.returncode, len(lines))


if __name__ == "__main__":
    main()
