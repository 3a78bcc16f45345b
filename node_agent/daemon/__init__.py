"""The node agent as a daemon: an HTTPS API around the process that does a job. Free of torch and numpy."""
