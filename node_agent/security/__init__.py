"""Who may speak to a board: its key and certificate, TLS contexts, and how it is enrolled. Free of torch and numpy."""
