"""GGUF files: read and check a header, tag it with KV-cache defaults, take the tags out again.

Value types here and in `tqconvert.kv` are NamedTuples, not frozen dataclasses: every start of `tag`
and `inspect` defines all of them, and a dataclass takes seven times as long (docs/decisions.md).
"""
