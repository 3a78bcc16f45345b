"""What the user's YAML says: nodes, links, the ring and the training over it."""
