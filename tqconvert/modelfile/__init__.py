"""Modelfiles: parsed, rendered, checked and made, in the grammar of stock Ollama."""
