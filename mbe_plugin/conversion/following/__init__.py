"""How a forward is followed: frames and the walk, routed module classes, comparison of two networks."""
