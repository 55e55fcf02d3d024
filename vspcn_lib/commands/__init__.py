"""The command line: its options, the demo and predictions."""
