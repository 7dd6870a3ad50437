"""GGUF files: read and check a header, tag it with KV-cache defaults, take the tags out again."""
