"""`pull`: from a model's name to that model, verified and tagged, in a store or a folder.

`sources` asks where the model is, `plan` says what will happen, `run` does it, `receive` moves bytes,
`assemble` turns the bytes of a source into a tagged file in one pass; `job` is the way through them.
"""
