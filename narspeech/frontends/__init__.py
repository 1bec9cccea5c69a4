"""From samples or token ids to features (B, T, F), one file a frontend."""
