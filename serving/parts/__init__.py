"""The parts of the engine plugin: which an engine can have, their settings, and their log."""
