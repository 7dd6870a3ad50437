"""`doctor`: what one would ask in a bug report."""

import os
from pathlib import Path

import typer

from tqconvert.cli.options import JsonOpt, OfflineOpt, QuietOpt, StoreOpt
from tqconvert.cli.output import Output, table
from tqconvert.errors import CheckFailedError
from tqconvert.fs import expand_user


def doctor(
    store: StoreOpt = None,
    offline: OfflineOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Check this machine: versions, store, file system, Ollama.

    The report holds no secrets and shows the home folder as ~, so it can be pasted into a bug
    report. Ollama's server is asked at OLLAMA_HOST (default: loopback) unless --offline.

    \b
    Examples:
      tqconvert doctor
      tqconvert doctor --offline --json

    \b
    Writes: nothing.
    Exit codes: 0 nothing is in the way; 1 a required thing fails.
    """
    from tqconvert.doctor import Machine, Status, examine

    where = expand_user(store).absolute() if store else None
    checks = examine(Machine(os.environ, Path.cwd(), where, offline))
    failed = [c.name for c in checks if c.status is Status.FAIL]
    verdict = f"in the way: {', '.join(failed)}" if failed else "nothing is in the way"
    rows = [(c.name, c.status, c.detail) for c in checks]
    fixes = [f"  {c.name}: {c.fix}" for c in checks if c.fix]
    lines = [table([("check", "status", "detail"), *rows])]
    if fixes:
        lines += ["what to do", *fixes]
    lines.append(f"{verdict}; nothing was changed")
    document = {
        "ok": not failed,
        "changed": False,
        "checks": [
            {"name": c.name, "status": c.status.lower(), "detail": c.detail, "fix": c.fix or None}
            for c in checks
        ],
    }
    Output("doctor", as_json, quiet).result(document, "\n".join(lines), failed)
    if failed:
        raise typer.Exit(CheckFailedError.exit_code)


def register(app: typer.Typer) -> None:
    """Add `doctor`."""
    app.command("doctor")(doctor)
