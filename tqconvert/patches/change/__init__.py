"""What changes a tree: patches put on and off, edited, exported, rebased, and taken back."""
