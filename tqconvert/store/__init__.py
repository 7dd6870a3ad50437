"""Ollama's model store: blobs named by digest, manifests named by model."""
