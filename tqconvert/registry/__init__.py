"""Models over the network: registries to pull from, a store to serve to others."""
