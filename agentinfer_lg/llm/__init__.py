"""A model as it really is: how it is reached, what it can do, how it is asked, and how its answers are read."""
