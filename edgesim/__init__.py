"""The workstation side: describe nodes and links, run the training over them, report what came out."""

__version__ = "0.1.0"
