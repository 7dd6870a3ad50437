"""`pull` from Hugging Face: names, the choice among a repository's files, shards joined on the way."""
