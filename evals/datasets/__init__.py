"""Questions with known answers, recorded sessions, and invented worlds."""
