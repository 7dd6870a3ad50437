"""The forms that a model takes in a registry: other manifests over the same blobs."""
