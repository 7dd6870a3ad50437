"""What a pull leaves for others to check: the lock file, the in-toto statement, the bill of materials."""
