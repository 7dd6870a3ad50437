"""What `ollama-build build` and `whatis` print."""

from typing import TYPE_CHECKING, Any

from tqconvert.cli.output import table

if TYPE_CHECKING:
    from tqconvert.runtime.build import BuildPlan, Built
    from tqconvert.runtime.manifest import Build


def going_to(plan: "BuildPlan") -> str:
    """What begins now."""
    inputs = plan.inputs
    upstream = f"{len(inputs.upstream)} of Ollama's patches, " if inputs.upstream else ""
    return (
        f"building {_source(plan)} with {upstream}{len(inputs.patches)} patches and "
        f"{len(inputs.new_files)} new files in {plan.work}"
    )


def _source(plan: "BuildPlan") -> str:
    from tqconvert.runtime.manifest import short_commit

    source = plan.inputs.source
    name = f"Ollama {plan.inputs.release or ''}".rstrip() if plan.inputs.go else "llama.cpp"
    version = short_commit(source.commit) if source.commit else source.tree[:9]
    return f"{name} {version} ({source.name})"


def document(plan: "BuildPlan", built: "Built | None") -> dict[str, Any]:
    """The document of `build --json`."""
    build = built.runtime.build if built else plan.existing.build if plan.existing else None
    inputs = plan.inputs
    return {
        "dry_run": built is None,
        "fresh": built.fresh if built else plan.existing is None,
        "id": plan.id,
        "folder": str(plan.folder),
        "target": plan.request.target,
        "release": inputs.release,
        "base": inputs.base,
        "source": {
            "kind": inputs.source.kind, "name": inputs.source.name, "tree": inputs.source.tree,
            "commit": inputs.source.commit,
        },
        "upstream": [p.name for p in inputs.upstream],
        "patches": [p.name for p in inputs.patches],
        "flags": list(inputs.flags),
        "build": {k: v for k, v in build.to_json().items() if k != "schema"} if build else None,
    }  # fmt: skip


def text(plan: "BuildPlan", built: "Built | None") -> str:
    """What was built, or would be."""
    if built is None:
        verb = "is built already in" if plan.existing else "would be built in"
        title = f"{_source(plan)} {verb} {plan.folder}"
        lines = [f"  patch {p.name} applies" for p in plan.inputs.patches]
        if count := len(plan.inputs.upstream):
            own = "go onto llama.cpp" if len(plan.inputs.trees) > 1 else "are in it, unchanged"
            lines.insert(0, f"  {count} patches of Ollama's {own}")
        return "\n".join([title, *lines])
    build = built.runtime.build
    assert build is not None
    how = f"built in {build.seconds:.0f} s" if built.fresh else "there already"
    return f"{plan.folder}: {how}\n{about(build)}"


def about(build: "Build") -> str:
    """The manifest for people."""
    compiler = f"{build.compiler['cxx']}, {build.compiler['generator']}"
    if go := build.compiler.get("go"):
        compiler = f"{go}, {compiler}"
    new = f"{len(build.new_files)} new files"
    names = ", ".join(p.name.removesuffix(".patch") for p in build.patches) or "none"
    name = "Ollama" if build.target == "ollama" else "llama.cpp"
    rows = [("source", f"{name} {build.release or build.version}, tree {build.source.tree[:12]}")]
    if build.upstream:
        rows.append(
            ("upstream", f"llama.cpp {build.base} with {len(build.upstream)} patches of Ollama's")
        )
    if part := build.llama_cpp:
        unsure = (
            "" if part.source.kind == "git" else f", in the stead of {build.base}, not compared"
        )
        rows.append(("llama.cpp", f"{part.source.name}{unsure}, tree {part.tree[:12]}"))
    rows += [
        ("patches", f"{names}; {new}; tree {build.tree[:12]}"),
        ("compiler", f"{compiler}, {build.variant}"),
        ("built", f"{build.date} by {build.tool}" if build.date else f"by {build.tool}"),
        ("programs", ", ".join(p.name for p in build.programs)),
    ]
    return table([(k, v) for k, v in rows if v], indent=2)
