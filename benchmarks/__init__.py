"""What flowkit costs, measured against the same rows written by hand. See README.md."""
