"""Where satellites and ground stations are, and who sees whom: positions in metres, times in s after an epoch."""
