"""`python -m node_agent`: as the command `node-agent`."""

from node_agent.cli import main

main()
