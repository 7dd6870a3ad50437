"""`ollama-build build` and `whatis`: patched runtimes, built from source."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.ollama_build import build_text
from tqconvert.cli.ollama_build.options import PatchesOpt
from tqconvert.cli.options import DryRunOpt, JsonOpt, OfflineOpt, QuietOpt, settings
from tqconvert.cli.output import Output
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.runtime.request import Request, Target


TargetOpt = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="TARGET", help="ollama or llama.cpp.", show_default="told by --source"
    ),
]
CpuOpt = Annotated[
    str,
    typer.Option(metavar="KIND", help="native, or portable: any processor of this architecture."),
]


def build(
    target: TargetOpt = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A tree, a clone, an archive, an address, or `sdist` (llama.cpp).",
            show_default="the public address",
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="REV", help="Revision of a clone or an address.")
    ] = None,
    llama_cpp: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="For Ollama v0.30 and later: llama.cpp's source."),
    ] = None,
    cpu: CpuOpt = "native",
    ggml_only: Annotated[
        bool, typer.Option("--ggml-only", help="The types and their tests, on older trees too.")
    ] = False,
    stock: Annotated[
        bool, typer.Option("--stock", help="Ollama without our patches, to compare with.")
    ] = False,
    allow_edits: Annotated[
        bool,
        typer.Option("--allow-edits", help="Also a release whose vendored llama.cpp was edited."),
    ] = False,
    cmake_arg: Annotated[
        list[str] | None,
        typer.Option("--cmake-arg", metavar="NAME=VALUE", help="Give this to cmake; repeatable."),
    ] = None,
    patches: PatchesOpt = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Compilers at a time.")
    ] = None,
    offline: OfflineOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Build Ollama or llama.cpp with the turbo cache types and defaults from tags.

    The source is copied into the cache, checked, patched and compiled there; the
    tree that you name is only read. Ollama needs Go and CMake; from v0.30 on it
    also needs llama.cpp, of the tag that it names. `sdist` is the llama.cpp in
    llama-cpp-python 0.3.36, which pip fetches once. What was built before is not
    built again; an interrupted build goes on where it was.

    \b
    Examples:
      tqconvert ollama-build build --target llama.cpp --source sdist
      tqconvert ollama-build build --source ../ollama --tag v0.19.0 --offline

    \b
    Writes: the cache folder (`cache` of `tqconvert config show`).
    -q prints the folder of the build.
    Exit codes: 0 built or there already, 1 a patch does not apply or the source
    does not compile, 2 usage, 4 wrong digest or a tree that is no release, 5 no
    such source, 7 somebody else builds it, 8 go, cmake, git or a compiler is
    missing, 9 disk, 11 network.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.series import Scope
    from tqconvert.runtime.build import apply_build, plan_build
    from tqconvert.runtime.request import Request, Target, Variant
    from tqconvert.runtime.toolchain import default_jobs

    if target is not None and target not in tuple(Target):
        raise UsageError(f"--target {target}: not known (expected {' or '.join(Target)})")
    if cpu not in tuple(Variant):
        raise UsageError(f"--cpu {cpu}: not known (expected {' or '.join(Variant)})")
    out = Output("ollama-build.build", json=json, quiet=quiet)
    loaded = settings(offline=offline)
    chosen = Target(target) if target else _target_of(source, tag)
    if chosen is Target.LLAMA_CPP and (llama_cpp or stock or tag):
        given = "--llama-cpp" if llama_cpp else "--stock" if stock else "--tag"
        raise UsageError(f"{given}: of use with --target ollama alone")
    request = Request(
        source=source,
        cache=loaded.cache,
        env=dict(os.environ),
        target=chosen,
        tag=tag,
        llama_cpp=llama_cpp,
        scope=Scope.GGML if ggml_only else Scope.ALL,
        variant=Variant(cpu),
        cmake_args=tuple(_checked(x) for x in cmake_arg or ()),
        patches=patches.expanduser().absolute() if patches else None,
        stock=stock,
        allow_edits=allow_edits,
        offline=loaded.offline,
    )
    if dry_run and _unfetched(request):
        _announce_fetch(request, out)
        return
    plan = plan_build(request, note=out.note)
    built = None
    if not dry_run:
        if not plan.existing:
            out.note(build_text.going_to(plan))
        built = apply_build(plan, jobs=jobs or default_jobs(), steps=out.steps("build"))
    document, text = build_text.document(plan, built), build_text.text(plan, built)
    out.result(document, text, str(plan.folder))


def _target_of(source: str | None, tag: str | None) -> "Target":
    """What a source is, told by what lies in it; a revision is Ollama's, and nothing is llama.cpp."""
    from tqconvert.errors import NotFoundError
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.runtime.gitsource import is_url
    from tqconvert.runtime.request import Target

    if tag:
        return Target.OLLAMA
    if source is None:
        return Target.LLAMA_CPP
    if is_url(source):
        return Target.LLAMA_CPP if "llama.cpp" in source else Target.OLLAMA
    try:
        is_ollama = find_checkout(Path(source).expanduser()).is_ollama
    except NotFoundError:
        return Target.LLAMA_CPP
    return Target.OLLAMA if is_ollama else Target.LLAMA_CPP


def whatis(
    path: Annotated[
        Path, typer.Argument(metavar="PROGRAM|DIR", help="A program of a build, or its folder.")
    ],
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Say what a built runtime is made of: source, patches, flags, compiler.

    Reads the manifest that `build` left beside the programs, and compares their
    digests with it. A program that was moved away is told by the same manifest
    inside of it: release, base, every patch by name and sha256, flags, tools.

    \b
    Examples:
      tqconvert ollama-build whatis "$(tqconvert ollama-build build -q)"
      tqconvert ollama-build whatis ./bin/llama-server --json

    \b
    Writes: nothing.
    -q prints the id of the build.
    Exit codes: 0 it is what the manifest says, 1 a program differs from it, 4 not
    a manifest, 5 no manifest there.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.series import find_patches
    from tqconvert.runtime.whatis import identify, release_of

    found = identify(path)
    build = found.build
    released = release_of(build, find_patches())
    document = {
        **build.to_json(),
        "folder": str(found.folder),
        "changed": list(found.changed),
        "embedded": found.embedded,
        "as_released": released,
    }
    out = Output("ollama-build.whatis", json=json, quiet=quiet)
    text = build_text.about(build)
    if build.upstream:
        known = f"as released in {released}" if released else "not those of a known release"
        text += f"\n  Ollama's {len(build.upstream)} patches: {known}"
    out.result({k: v for k, v in document.items() if k != "schema"}, text, build.id)
    if found.changed:
        out.warn(f"not what was built: {', '.join(found.changed)}")
        raise typer.Exit(1)


def _checked(text: str) -> str:
    name, found, _ = text.removeprefix("-D").partition("=")
    if not found or not name.replace("_", "").replace(":", "").isalnum():
        raise UsageError(f"--cmake-arg {text}: expected NAME=VALUE")
    return text.removeprefix("-D")


def _unfetched(request: "Request") -> bool:
    """Whether the plan needs a download, which a dry run must not make."""
    from tqconvert.runtime.request import Target
    from tqconvert.runtime.source import SDIST, pinned_archive

    if request.target is not Target.LLAMA_CPP or request.offline:
        return False
    return request.source in (None, SDIST) and not pinned_archive(request.cache).exists()


def _announce_fetch(request: "Request", out: Output) -> None:
    from tqconvert.runtime.source import PINNED, pinned_archive

    steps = [f"fetch {PINNED} into {pinned_archive(request.cache).parent}", "patch and compile it"]
    document = {"dry_run": True, "fresh": None, "id": None, "steps": steps}
    out.result(document, "\n".join(f"would {step}" for step in steps))


COMMANDS = (build, whatis)
