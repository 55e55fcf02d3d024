"""Files, locks, digests, memory, clock and unpacked archives: what knows nothing of learning."""
