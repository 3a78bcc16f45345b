"""The nodes of a run: started, listened to, and never left behind."""
