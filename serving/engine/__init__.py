"""The engine: its command line, installation, start and end, and the small demo model."""
