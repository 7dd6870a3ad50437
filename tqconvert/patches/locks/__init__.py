"""What releases of Ollama hold, as hashes: locks read, computed and written, patches compared with them."""
