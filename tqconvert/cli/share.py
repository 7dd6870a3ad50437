"""`tqconvert share`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output

if TYPE_CHECKING:
    from tqconvert.registry.serve import Server
    from tqconvert.store.layout import Store


def share(
    listen: Annotated[
        str, typer.Option("--listen", "-l", metavar="ADDR", help="HOST:PORT; port 0 takes any.")
    ] = "127.0.0.1:11435",
    store: StoreOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Serve the store read-only, as a registry that stock `ollama pull` can pull from.

    A model is asked for as ADDR/NAMESPACE/MODEL:TAG, whatever host it was pulled from: NAMESPACE is
    `library` for gemma3:270m. Where two hosts have the same name, Ollama's registry wins. There is no
    password: on an address other than 127.0.0.1 everybody who reaches it can read all models.

    \b
    Examples:
      tqconvert share
      tqconvert share --listen 0.0.0.0:11435

    \b
    On another machine:
      ollama pull http://ADDR/library/gemma3:270m --insecure
      tqconvert pull ADDR/library/gemma3:270m --insecure

    Other forms have tags of their own, for skopeo, oras and Docker:
    gemma3:270m-oci, gemma3:270m-modelpack, gemma3:270m-docker.

    Writes: nothing.

    Exit codes: 0 ended by Ctrl-C or SIGTERM, 2 bad address, 5 no such store, 9 address in use.
    """
    from tqconvert.registry.serve import DEFAULT_PORT, parse_listen, serve_store
    from tqconvert.store.layout import Store

    out = Output("share", json=as_json, quiet=quiet)
    at = Store(settings(store=store).store)
    host, port = parse_listen(listen, default_port=DEFAULT_PORT)
    with serve_store(at, host, port, log=out.note) as server:
        try:
            announce(server, at, out)
            server.wait()
        except KeyboardInterrupt:
            out.note(f"ended; {server.served} bytes served")


def announce(server: "Server", store: "Store", out: Output) -> None:
    """Print where the server is and what it has."""
    if server.public:
        out.warn(f"whoever reaches {server.address} can read all models; there is no password")
    models = server.models()
    document = {
        "url": server.url, "address": server.address, "public": server.public,
        "store": str(store.root), "models": models,
    }  # fmt: skip
    example = f"ollama pull {server.url}/{models[0]} --insecure" if models else "no models yet"
    count = "1 model" if len(models) == 1 else f"{len(models)} models"
    text = f"serving {count} of {store.root} at {server.url}\n  {example}"
    out.result(document, text, server.url)
    sys.stdout.flush()
