"""A closed world: invented documents and multi-hop questions about them, all from one seed."""
