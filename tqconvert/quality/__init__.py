"""What a cache type does to a model: perplexity and KL divergence, measured with the runtime."""
