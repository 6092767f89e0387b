"""What several nodes of the Information Seeker share."""
