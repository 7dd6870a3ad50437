"""`push`: from a model of a store, or a GGUF, to a registry, in one form or several over the same blobs.

`plan` asks what is there and says what would go, `run` does it, `job` is what others call.
"""
