"""What is in a tree: patches applied, halved or missing, edits, findings."""
