"""The queue on other bases, in memory: a folder, a commit, newer releases."""
