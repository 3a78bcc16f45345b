"""What a board is and can do: probed, calibrated, set."""
