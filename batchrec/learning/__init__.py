"""Learning: drawn archives, the trainer, and the script that made the bundled model."""
