"""Every experiment by name, a file per detector, data set or variation."""
