"""Local, real stand-ins for the clusters that openrs submits to."""
