"""KV caches: what each layer of a model keeps, how many bytes that is, and which types to choose."""
