"""Models mixed rather than merged: the experts stay beside the base, and something decides which of them answer."""
