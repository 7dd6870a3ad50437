"""`ollama-build build` and `whatis`: patched runtimes, built from source."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import DryRunOpt, JsonOpt, OfflineOpt, QuietOpt, settings
from tqconvert.cli.output import Output, table
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.runtime.build import BuildPlan, Built, Request
    from tqconvert.runtime.manifest import Build


def build(
    target: Annotated[
        # Named: Typer 0.27 takes the metavar's case where metavar and parameter have the same name.
        str,
        typer.Option("--target", metavar="TARGET", help="What to build: llama.cpp."),
    ] = "llama.cpp",
    source: Annotated[
        str,
        typer.Option(metavar="DIR|FILE|sdist", help="A llama.cpp tree, an archive, or `sdist`."),
    ] = "sdist",
    cpu: Annotated[
        str, typer.Option(metavar="KIND", help="native, or portable: AVX2 on x86-64.")
    ] = "native",
    ggml_only: Annotated[
        bool, typer.Option("--ggml-only", help="The types and their tests, on older trees too.")
    ] = False,
    cmake_arg: Annotated[
        list[str] | None,
        typer.Option("--cmake-arg", metavar="NAME=VALUE", help="Give this to cmake; repeatable."),
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Patches to use instead of tqconvert's own."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Compilers at a time.")
    ] = None,
    offline: OfflineOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Build llama.cpp with the turbo cache types and the defaults from GGUF tags.

    The source is copied into the cache, patched and compiled there; the tree that
    you name is only read. `sdist` is the source in llama-cpp-python 0.3.36, which
    pip fetches once. What was built before is not built again; an interrupted
    build goes on where it was.

    \b
    Examples:
      tqconvert ollama-build build --target llama.cpp --source sdist
      tqconvert ollama-build build --source ../llama.cpp --jobs 4 --json

    \b
    Writes: the cache folder (`cache` of `tqconvert config show`).
    -q prints the folder of the build.
    Exit codes: 0 built or there already, 1 a patch does not apply or the source
    does not compile, 2 usage, 4 wrong digest, 5 no such source, 7 somebody else
    builds it, 8 cmake, git or a compiler is missing, 9 disk, 11 network.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.series import Scope
    from tqconvert.runtime.build import TARGET, Request, Variant, apply_build, plan_build
    from tqconvert.runtime.toolchain import default_jobs

    if target != TARGET:
        raise UsageError(f"--target {target}: not known (expected {TARGET})")
    if cpu not in tuple(Variant):
        raise UsageError(f"--cpu {cpu}: not known (expected {' or '.join(Variant)})")
    out = Output("ollama-build.build", json=json, quiet=quiet)
    loaded = settings(offline=offline)
    request = Request(
        source=source,
        cache=loaded.cache,
        env=dict(os.environ),
        scope=Scope.GGML if ggml_only else Scope.ALL,
        variant=Variant(cpu),
        cmake_args=tuple(_checked(x) for x in cmake_arg or ()),
        patches=patches.expanduser().absolute() if patches else None,
        offline=loaded.offline,
    )
    if dry_run and _unfetched(request):
        _announce_fetch(request, out)
        return
    plan = plan_build(request, note=out.note)
    built = None
    if not dry_run:
        if not plan.existing:
            out.note(_going_to(plan))
        built = apply_build(plan, jobs=jobs or default_jobs(), steps=out.steps("build"))
    out.result(_document(plan, built), _text(plan, built), str(plan.folder))


def whatis(
    path: Annotated[
        Path, typer.Argument(metavar="PROGRAM|DIR", help="A program of a build, or its folder.")
    ],
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Say what a built runtime is made of: source, patches, flags, compiler.

    Reads the manifest that `build` left beside the programs, and compares their
    digests with it.

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
    from tqconvert.runtime.whatis import identify

    found = identify(path)
    build = found.build
    document = {**build.to_json(), "folder": str(found.folder), "changed": list(found.changed)}
    out = Output("ollama-build.whatis", json=json, quiet=quiet)
    out.result({k: v for k, v in document.items() if k != "schema"}, _about(build), build.id)
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
    from tqconvert.runtime.source import SDIST, pinned_archive

    is_there = pinned_archive(request.cache).exists()
    return request.source == SDIST and not is_there and not request.offline


def _announce_fetch(request: "Request", out: Output) -> None:
    from tqconvert.runtime.source import PINNED, pinned_archive

    steps = [f"fetch {PINNED} into {pinned_archive(request.cache).parent}", "patch and compile it"]
    document = {"dry_run": True, "fresh": None, "id": None, "steps": steps}
    out.result(document, "\n".join(f"would {step}" for step in steps))


def _going_to(plan: "BuildPlan") -> str:
    assert plan.patched is not None
    return (
        f"building {_source_text(plan)} with {len(plan.patched.patches)} patches and "
        f"{len(plan.patched.new_files)} new files in {plan.work}"
    )


def _source_text(plan: "BuildPlan") -> str:
    source = plan.source
    return f"llama.cpp {source.commit[:9] if source.commit else source.tree[:9]} ({source.name})"


def _document(plan: "BuildPlan", built: "Built | None") -> dict[str, Any]:
    build = built.runtime.build if built else plan.existing.build if plan.existing else None
    patched = plan.patched
    return {
        "dry_run": built is None,
        "fresh": built.fresh if built else plan.existing is None,
        "id": plan.id,
        "folder": str(plan.folder),
        "source": {
            "kind": plan.source.kind, "name": plan.source.name, "tree": plan.source.tree,
            "commit": plan.source.commit,
        },
        "patches": [p.name for p in patched.patches] if patched else
                   [p.name for p in build.patches] if build else [],
        "flags": list(plan.flags),
        "build": {k: v for k, v in build.to_json().items() if k != "schema"} if build else None,
    }  # fmt: skip


def _text(plan: "BuildPlan", built: "Built | None") -> str:
    if built is None:
        verb = "is built already in" if plan.existing else "would be built in"
        text = f"{_source_text(plan)} {verb} {plan.folder}"
        names = [p.name for p in plan.patched.patches] if plan.patched else []
        return "\n".join([text, *(f"  patch {name} applies" for name in names)])
    build = built.runtime.build
    assert build is not None
    how = f"built in {build.seconds:.0f} s" if built.fresh else "there already"
    return f"{plan.folder}: {how}\n{_about(build)}"


def _about(build: "Build") -> str:
    """The manifest for people."""
    compiler = f"{build.compiler['cxx']}, {build.compiler['generator']}"
    new = f"{len(build.new_files)} new files"
    names = ", ".join(p.name.removesuffix(".patch") for p in build.patches) or "none"
    rows = [
        ("source", f"llama.cpp {build.version}, tree {build.source.tree[:12]}"),
        ("patches", f"{names}; {new}; tree {build.tree[:12]}"),
        ("compiler", f"{compiler}, {build.variant}"),
        ("built", f"{build.date} by {build.tool}"),
        ("programs", ", ".join(p.name for p in build.programs)),
    ]
    return table(rows, indent=2)


COMMANDS = (build, whatis)
