"""Steps of the research agent: the pure logic of each, and the thin graph nodes around it."""
