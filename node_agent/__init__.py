"""The node: what runs on a board, or in an emulated process, and never needs the workstation package."""
