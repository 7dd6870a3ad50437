"""The Modelfile of a pulled model."""

from tqconvert import fs
from tqconvert.pull.run import PullResult


def write_modelfile(result: PullResult, memory: int | None) -> None:
    """Write the Modelfile where the plan says; an equal one is left alone. Raises StorageError.

    FROM names the installed model, or the file beside the Modelfile; `num_ctx` is what fits `memory`.
    """
    from tqconvert.kv.plan import choose_num_ctx
    from tqconvert.modelfile.make import from_manifest
    from tqconvert.modelfile.render import render

    if result.header is None:
        return
    plan = result.plan
    from_ = f"./{plan.destination.file.name}" if plan.destination.file else str(plan.target)
    num_ctx = choose_num_ctx(result.header, memory)
    model = from_manifest(
        plan.destination.store, plan.target, result.header, from_=from_, num_ctx=num_ctx
    )
    data = render(model).encode()
    path = plan.destination.modelfile
    if path.exists() and path.read_bytes() == data:
        return
    plan.destination.store.make_folder(path.parent)
    fs.write_atomic(path, data)
