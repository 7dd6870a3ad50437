"""The Modelfile of a pulled model."""

from tqconvert import fs
from tqconvert.pull.destination import read_small
from tqconvert.pull.run import PullResult
from tqconvert.store.layout import inherit_owner


def write_modelfile(result: PullResult, memory: int | None, *, replace: bool) -> None:
    """Write the Modelfile where the plan says; an equal one is left alone. Raises StorageError.

    So is one that a user wrote or edited in the folder, unless `replace` is set; what was written
    there last is kept beside the manifest, to tell. In a store the two are one file.
    FROM names the installed model, or the file beside the Modelfile. `num_ctx` is what fits `memory`;
    without that the model's own value stays.
    """
    from tqconvert.kv.plan import choose_num_ctx
    from tqconvert.modelfile.make import from_manifest, own_num_ctx, with_origin
    from tqconvert.modelfile.render import render

    if result.header is None:
        return
    plan = result.plan
    store = plan.destination.store
    from_ = f"./{plan.destination.file.name}" if plan.destination.file else str(plan.target)
    keeps_own = memory is None and own_num_ctx(store, plan.target) is not None
    num_ctx = None if keeps_own else choose_num_ctx(result.header, memory)
    made = from_manifest(store, plan.target, result.header, from_=from_, num_ctx=num_ctx)
    data = render(with_origin(made, result.header, f"tqconvert pull {plan.name}")).encode()
    stays = plan.destination.has_own_modelfile(plan.target) and not replace
    if stays and read_small(plan.destination.modelfile) != data:
        return
    for path in (plan.destination.modelfile, store.modelfile_path(plan.target)):
        if read_small(path) != data:
            store.make_folder(path.parent)
            # In the store, what a kill leaves of it lies where `cache prune` looks.
            inside = store.private in path.parents
            fs.write_atomic(path, data, temporary_in=store.staging() if inside else None)
            inherit_owner(path)
