"""tqconvert: from a model name to that model in Ollama with a small, measured KV cache."""

__version__ = "0.1.0"
